// Control groups (cgroup v2): one for each operation, so that a process which the kernel killed for
// lack of memory can be told from one that somebody killed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace hutch::agent {

// The group of one operation. Its folder stays until Cgroups::sweep() finds it empty, for children
// of the operation may live longer.
class Cgroup {
 public:
  Cgroup() = default;
  Cgroup(uint64_t number, Fd folder) : number_(number), folder_(std::move(folder)) {}

  // -1 when the system has no control groups.
  int folder() const { return folder_.get(); }
  uint64_t number() const { return number_; }
  // Whether the kernel killed a process of this group for memory; false where the group does not
  // account memory.
  bool was_out_of_memory() const;

 private:
  uint64_t number_ = 0;
  Fd folder_;
};

class Cgroups {
 public:
  Cgroups() = default;  // none: every group is an empty one
  // Makes the folder `hutch` in the cgroup2 file system at `mount` and turns controllers on: all of
  // them at the top, for the containers of the guest, and memory for the groups of operations.
  static Result<Cgroups> create(const std::string& mount);

  Result<Cgroup> make();
  // Gives the group up: its folder goes as soon as no process is in it.
  void discard(Cgroup group);
  // Removes the folders of discarded groups that have become empty. Call it when a process is gone.
  void sweep();

 private:
  std::string path_;  // of folder_, for messages
  // By descriptor: programs of the guest may mount what they like over its path.
  Fd folder_;  // not open: no control groups
  uint64_t next_ = 1;
  std::vector<uint64_t> discarded_;
};

}  // namespace hutch::agent
