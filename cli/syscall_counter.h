// Counts the system calls of the VMM from the start of its program to its first KVM_RUN.
//
// perf events on the tracepoint raw_syscalls:sys_enter, one per CPU, inherited by the child and
// switched on by its exec; each call leaves a time stamp of CLOCK_MONOTONIC, so that the count is
// exact although it is read later. Needs tracefs and the right to use tracepoints.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

namespace hutch::cli {

class SyscallCounter {
 public:
  // Before the child is started, by the same thread. Null when the host does not let us count.
  static std::unique_ptr<SyscallCounter> create();
  ~SyscallCounter();
  // Calls that began before `until_ns`; nothing when the record overflowed. Once.
  std::optional<uint64_t> count_until(uint64_t until_ns) const;

 private:
  struct Ring;
  SyscallCounter();
  std::unique_ptr<Ring[]> rings_;
  size_t ring_count_ = 0;
};

}  // namespace hutch::cli
