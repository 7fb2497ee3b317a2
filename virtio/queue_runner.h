// QueueRunner: runs one queue on a loop, so that a device is only what it does with one request.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "base/loop.h"
#include "base/result.h"
#include "virtio/device.h"

namespace hutch::virtio {

class QueueRunner {
 public:
  // Serves one request and returns the number of bytes written into its writable part, or nothing
  // when it cannot be served now: the request goes back, and the queue rests until run() is called.
  // An error means that the driver broke the protocol. Called on the loop's thread.
  using Handler = std::function<Result<std::optional<uint64_t>>(const Chain&)>;

  struct Options {
    // Looks whether to interrupt after each request instead of after each batch: for requests that
    // take long.
    bool interrupt_each = false;
    // Called on the loop's thread after a batch that a notification of the driver set off.
    std::function<void()> after_batch = nullptr;
  };

  // The loop outlives the runner.
  QueueRunner(Loop& loop, Handler handler);
  QueueRunner(Loop& loop, Handler handler, Options options);
  // The queue must have been stopped.
  ~QueueRunner();
  QueueRunner(const QueueRunner&) = delete;
  QueueRunner& operator=(const QueueRunner&) = delete;

  // Takes the queue and serves what is waiting. Any thread; waits for the loop. Errors: the host
  // has no room for another watch.
  Result<void> start(QueueResources resources);
  // Gives the queue up and returns its progress; nothing when none was running. No request is in
  // flight after this. Any thread; waits for the loop.
  std::optional<QueueState> stop();
  // Serves what is waiting: for when the reason of an earlier "not now" is gone. On the loop's
  // thread; nothing happens when no queue is running.
  void run();

 private:
  struct Running {
    QueueResources resources;
    bool is_broken = false;
    Watch watch;
  };
  void notified();
  Result<void> serve(Running& running);
  Result<void> interrupt(Running& running);

  Loop& loop_;
  const Handler handler_;
  const Options options_;
  std::unique_ptr<Running> running_;  // belongs to the loop
  bool in_run_ = false;
};

}  // namespace hutch::virtio
