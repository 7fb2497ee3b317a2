#include "virtio/queue_runner.h"

#include <cassert>

namespace hutch::virtio {

QueueRunner::QueueRunner(Loop& loop, Handler handler)
    : QueueRunner(loop, std::move(handler), Options()) {}

QueueRunner::QueueRunner(Loop& loop, Handler handler, Options options)
    : loop_(loop), handler_(std::move(handler)), options_(std::move(options)) {}

QueueRunner::~QueueRunner() {
  assert(running_ == nullptr);
}

Result<void> QueueRunner::start(QueueResources resources) {
  Result<void> started;
  loop_.run_on_loop([&] {
    assert(running_ == nullptr);
    int fd = resources.notify->get();
    Result<Watch> watch = loop_.watch(fd, EPOLLIN, [this](uint32_t) { notified(); });
    if (!watch) {
      started = tl::unexpected(std::move(watch).error());
      return;
    }
    // The driver may have made requests available, and notified, before the queue ran.
    resources.notify->signal();
    running_ = std::make_unique<Running>(Running{std::move(resources), false, *std::move(watch)});
  });
  return started;
}

std::optional<QueueState> QueueRunner::stop() {
  std::optional<QueueState> state;
  loop_.run_on_loop([&] {
    if (running_ == nullptr) return;
    state = running_->resources.queue.state();
    running_.reset();
  });
  return state;
}

void QueueRunner::notified() {
  running_->resources.notify->drain();
  run();
  if (options_.after_batch) options_.after_batch();
}

void QueueRunner::run() {
  // A handler may come here again through what it sets off; the batch at hand goes on by itself.
  if (running_ == nullptr || running_->is_broken || in_run_) return;
  in_run_ = true;
  Result<void> served = serve(*running_);
  in_run_ = false;
  if (served) return;
  running_->is_broken = true;
  running_->watch.reset();
  running_->resources.broken(served.error());
}

Result<void> QueueRunner::serve(Running& running) {
  Queue& queue = running.resources.queue;
  TRY(queue.disable_notification());
  // A driver that never stops asking must not keep the loop from others.
  for (uint32_t budget = queue.size(); budget > 0; budget--) {
    std::optional<Chain> chain = TRY(queue.pop());
    if (!chain) {
      if (TRY(queue.enable_notification())) continue;
      return interrupt(running);
    }
    Result<std::optional<uint64_t>> written = handler_(*chain);
    if (!written) {
      queue.abandon(*std::move(chain));
      return tl::unexpected(std::move(written).error());
    }
    if (!*written) {
      queue.undo_pop(*std::move(chain));
      return interrupt(running);
    }
    TRY(queue.complete(*std::move(chain), **written));
    if (options_.interrupt_each) TRY(interrupt(running));
  }
  running.resources.notify->signal();
  return interrupt(running);
}

Result<void> QueueRunner::interrupt(Running& running) {
  if (TRY(running.resources.queue.should_interrupt())) running.resources.interrupt->raise();
  return {};
}

}  // namespace hutch::virtio
