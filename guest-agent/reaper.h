// Reaper: takes the exit status of every child, its own and, as PID 1, those that lost their
// parent.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <unordered_map>

#include "base/loop.h"

namespace hutch::agent {

class Reaper {
 public:
  // Blocks SIGCHLD in this process and takes it from the loop instead. `after_each_round` runs when
  // some children have been reaped. Children that are not watched are reaped all the same.
  static Result<std::unique_ptr<Reaper>> create(Loop& loop, std::function<void()> after_each_round);

  // Calls `on_exit` with the status of waitpid(2), once. Call it before the loop runs again after
  // the fork, so that no exit is missed.
  void watch(pid_t process, std::function<void(int status)> on_exit);
  void forget(pid_t process);
  size_t watched() const { return watched_.size(); }

 private:
  Reaper() = default;
  void reap();

  Fd signals_;
  Watch watch_;
  std::function<void()> after_each_round_;
  std::unordered_map<pid_t, std::function<void(int)>> watched_;
};

}  // namespace hutch::agent
