// Threads for what may block: each job runs on one, its continuation on the loop's thread.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>

#include "base/loop.h"

namespace hutch::agent::rpc {

class Workers {
 public:
  // Threads start as jobs need them, at most `limit`; further jobs wait.
  Workers(Loop& loop, size_t limit) : loop_(loop), limit_(limit) {}
  // Waits for the jobs under way; those that wait for a thread are dropped.
  ~Workers();
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  // The loop's thread. Neither function may throw. `then` runs after `job`.
  void run(std::function<void()> job, std::function<void()> then);

 private:
  struct Task {
    std::function<void()> job, then;
  };
  void work();

  Loop& loop_;
  const size_t limit_;
  std::mutex mutex_;
  std::condition_variable changed_;
  // Under mutex_:
  std::deque<Task> tasks_;
  size_t threads_ = 0, idle_ = 0;
  bool stopping_ = false;
};

}  // namespace hutch::agent::rpc
