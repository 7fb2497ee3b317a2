#include "guest-agent/rpc/stream_writer.h"

namespace hutch::agent::rpc {

std::shared_ptr<StreamWriter> StreamWriter::create(Loop& loop,
                                                   std::shared_ptr<OutboundStream> stream,
                                                   std::function<void()> on_cancel) {
  std::shared_ptr<StreamWriter> writer(new StreamWriter(loop, stream));
  stream->set_on_passed([weak = std::weak_ptr(writer)](size_t bytes) {
    auto self = weak.lock();
    if (!self) return;
    std::lock_guard guard(self->mutex_);
    self->held_ -= bytes;
    self->changed_.notify_all();
  });
  stream->set_on_cancel([weak = std::weak_ptr(writer), on_cancel = std::move(on_cancel)] {
    if (on_cancel) on_cancel();
    auto self = weak.lock();
    if (!self) return;
    std::lock_guard guard(self->mutex_);
    self->cancelled_ = true;
    self->changed_.notify_all();
  });
  return writer;
}

bool StreamWriter::write(std::string bytes) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return cancelled_ || held_ < kOutboundLimit; });
  if (cancelled_) return false;
  held_ += bytes.size();
  loop_.post(
      [stream = stream_, bytes = std::move(bytes)]() mutable { stream->push(std::move(bytes)); });
  return true;
}

bool StreamWriter::is_wanted() {
  std::lock_guard lock(mutex_);
  return !cancelled_;
}

void StreamWriter::end() {
  loop_.post([stream = stream_] { stream->end(); });
}

void StreamWriter::fail(const Failure& failure) {
  loop_.post([stream = stream_, failure] { stream->fail(failure); });
}

}  // namespace hutch::agent::rpc
