// LoopThread: a thread that runs a loop of its own: the disks', because reading and writing files
// may block, and the network's, because a guest's bytes keep it busy.
#pragma once

#include <pthread.h>

#include <atomic>
#include <memory>

#include "base/loop.h"
#include "vmm/seccomp.h"

namespace hutch::vmm {

class LoopThread {
 public:
  // Starts the thread, which narrows itself at once and then runs its loop.
  static Result<std::unique_ptr<LoopThread>> start(ThreadKind kind);
  ~LoopThread();  // stops the loop and joins

  Loop& loop() { return *loop_; }
  // Returns once the thread is narrow, for which it has had the whole set-up of the machine; an
  // error when it could not narrow itself.
  Result<void> check_narrow();

 private:
  LoopThread(std::unique_ptr<Loop> loop, ThreadKind kind) : loop_(std::move(loop)), kind_(kind) {}
  static void* entry(void* self);
  void run();

  enum class State : int { kStarting, kNarrow, kFailed };
  std::unique_ptr<Loop> loop_;
  const ThreadKind kind_;
  pthread_t thread_{};
  bool joinable_ = false;
  std::atomic<State> state_{State::kStarting};
};

}  // namespace hutch::vmm
