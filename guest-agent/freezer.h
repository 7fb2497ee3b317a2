// Freezer: stops every process of the machine but the agent, so that it can be saved, and lets them
// run again (cgroup v2, cgroup.freeze).
//
// All groups at the top of the hierarchy are stopped, not only the agent's own: containers of the
// guest have groups beside it. What somebody else has frozen stays frozen.
#pragma once

#include <chrono>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "base/loop.h"

namespace hutch::agent {

class Freezer {
 public:
  // `mount`: the folder where cgroup2 is mounted; not open: there is none, and nothing is stopped.
  Freezer(Loop& loop, Fd mount) : loop_(loop), mount_(std::move(mount)) {}

  // Calls `done` once every process has stopped, with an empty text; or with why not, in which case
  // all of them run again. Never later than after kPatience; perhaps before this returns. False:
  // refused, and nothing was begun.
  bool freeze(std::function<void(std::string problem)> done);
  // Lets everything run again that freeze() stopped; ends one that is under way. Returns why some
  // may not run, empty when all do.
  std::string thaw();
  // Nobody waits for the answer of freeze() any more; what is stopped stays so.
  void forget() { done_ = nullptr; }

  static constexpr std::chrono::seconds kPatience{2};

 private:
  void look();
  void answer(std::string problem);
  Result<std::vector<std::string>> groups() const;
  Result<bool> stop(const std::string& group);

  Loop& loop_;
  // By descriptor: programs of the guest may mount what they like over its path.
  Fd mount_;
  Watch timer_;
  std::chrono::steady_clock::time_point deadline_;
  std::function<void(std::string)> done_;
  bool under_way_ = false;
  std::set<std::string> ours_;  // groups that this froze
};

}  // namespace hutch::agent
