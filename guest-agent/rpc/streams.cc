#include "guest-agent/rpc/streams.h"

#include <utility>

namespace hutch::agent::rpc {
namespace {

// A client takes a chunk of any size; this keeps a message small.
constexpr size_t kMaxChunk = 64 * 1024;

// Copied first: what is called may drop the stream.
template <typename Function, typename... Args>
void call(const Function& function, Args... args) {
  Function copy = function;
  if (copy) copy(args...);
}

}  // namespace

void OutboundStream::release() {
  timer_.reset();
  if (released_) return;
  released_ = true;
  flush();
}

void OutboundStream::release_after(std::chrono::nanoseconds delay) {
  if (released_) return;
  timer_ = loop_.after(delay, [weak = weak_from_this()](uint32_t) {
    if (auto self = weak.lock()) self->release();
  });
}

void OutboundStream::push(std::string bytes) {
  if (bytes.empty()) return;  // an empty chunk breaks the client's stream
  if (owner_ == nullptr || ended_) return call(on_passed_, bytes.size());
  chunks_.push_back(std::move(bytes));
  flush();
}

void OutboundStream::end() {
  if (ended_) return;
  ended_ = true;
  flush();
}

void OutboundStream::fail(const Failure& failure) {
  if (ended_) return;
  failure_ = failure;
  end();
}

void OutboundStream::flush() {
  auto self = shared_from_this();
  if (!released_ || owner_ == nullptr) return;
  if (!started_) {
    started_ = true;
    owner_->notify("$sandbox.stream.start", id_, Json::object());
  }
  while (owner_ != nullptr && !chunks_.empty()) {
    if (!owner_->has_room()) return owner_->wait_for_room(weak_from_this());
    std::string chunk = std::move(chunks_.front());
    chunks_.pop_front();
    for (std::string_view rest = chunk; !rest.empty();) {
      owner_->send_chunk(id_, rest.substr(0, kMaxChunk));
      rest.remove_prefix(std::min(rest.size(), kMaxChunk));
    }
    call(on_passed_, chunk.size());
  }
  if (owner_ == nullptr || !ended_) return;
  if (failure_) {
    owner_->notify("$sandbox.stream.error", id_, {{"error", failure_->to_json()}});
  } else {
    owner_->notify("$sandbox.stream.end", id_, Json::object());
  }
  std::exchange(owner_, nullptr)->forget_outbound(id_);
}

void OutboundStream::drop_chunks() {
  size_t dropped = 0;
  for (const std::string& chunk : chunks_) dropped += chunk.size();
  chunks_.clear();
  if (dropped > 0) call(on_passed_, dropped);
}

void OutboundStream::cancel() {
  auto self = shared_from_this();
  if (std::exchange(owner_, nullptr) == nullptr) return;
  timer_.reset();
  drop_chunks();
  call(on_cancel_);
}

void OutboundStream::abort(const Failure& failure) {
  if (owner_ == nullptr) return;
  auto self = shared_from_this();
  failure_ = failure;
  ended_ = true;
  drop_chunks();
  // What its user pushes from here on is dropped.
  call(on_cancel_);
  flush();
}

std::optional<std::string> InboundStream::take(size_t most) {
  if (chunks_.empty()) return std::nullopt;
  std::string chunk;
  if (chunks_.front().size() - first_offset_ <= most) {
    chunk = std::move(chunks_.front());
    chunk.erase(0, first_offset_);
    chunks_.pop_front();
    first_offset_ = 0;
  } else {
    chunk = chunks_.front().substr(first_offset_, most);
    first_offset_ += most;
  }
  held_ -= chunk.size();
  if (owner_ != nullptr) owner_->inbound_taken();
  return chunk;
}

void InboundStream::cancel(const Failure& reason) {
  if (cancelled_) return;
  cancelled_ = true;
  on_data_ = nullptr;
  chunks_.clear();
  held_ = 0;
  StreamOwner* owner = std::exchange(owner_, nullptr);
  if (owner == nullptr) return;
  if (!ended_) owner->notify("$sandbox.stream.cancel", id_, {{"reason", reason.to_json()}});
  owner->inbound_taken();
  owner->forget_inbound(id_);
}

void InboundStream::add(std::string bytes) {
  if (cancelled_ || ended_ || bytes.empty()) return;
  held_ += bytes.size();
  chunks_.push_back(std::move(bytes));
  call(on_data_);
}

void InboundStream::end(std::optional<Failure> failure) {
  if (ended_) return;
  ended_ = true;
  failure_ = std::move(failure);
  call(on_data_);
}

void InboundStream::detach() {
  owner_ = nullptr;
  end(broken_pipe());
}

}  // namespace hutch::agent::rpc
