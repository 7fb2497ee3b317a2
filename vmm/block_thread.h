// BlockThread: the thread that runs the disks' loop, because reading and writing files may block.
#pragma once

#include <pthread.h>

#include <atomic>
#include <memory>

#include "base/loop.h"

namespace hutch::vmm {

class BlockThread {
 public:
  // Starts the thread, which narrows itself at once and then runs its loop.
  static Result<std::unique_ptr<BlockThread>> start();
  ~BlockThread();  // stops the loop and joins

  Loop& loop() { return *loop_; }
  // Returns once the thread is narrow, for which it has had the whole set-up of the machine; an
  // error when it could not narrow itself.
  Result<void> check_narrow();

 private:
  explicit BlockThread(std::unique_ptr<Loop> loop) : loop_(std::move(loop)) {}
  static void* entry(void* self);
  void run();

  enum class State : int { kStarting, kNarrow, kFailed };
  std::unique_ptr<Loop> loop_;
  pthread_t thread_{};
  bool joinable_ = false;
  std::atomic<State> state_{State::kStarting};
};

}  // namespace hutch::vmm
