// What --timings reports: when the stages of a boot were reached and what it took.
#pragma once

#include <hutch.h>
#include <sys/types.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>

namespace hutch::cli {

struct Timings {
  uint64_t start_ns = 0;  // of CLOCK_MONOTONIC, as all others; 0: not reached
  uint64_t first_run_ns = 0, kernel_ns = 0, init_ns = 0, agent_ns = 0, reply_ns = 0, gone_ns = 0;
  std::map<std::string, uint64_t> counters;          // of the VMM, at the reply
  std::optional<uint64_t> syscalls_until_first_run;  // nothing when the host does not let us count
  std::optional<uint64_t> vmm_kib;

  void set_mark(const hutch_event& event);
  void set_counters(const hutch_event& event);
  // One line of JSON, or lines for a person.
  std::string json() const;
  std::string text() const;
};

// Resident memory of a VMM beyond its guest's RAM, in KiB: from its mappings where we may see them,
// else all that is resident less the pages of the guest that the VMM has counted. Nothing when
// /proc does not tell.
std::optional<uint64_t> vmm_resident_kib(pid_t process_id,
                                         const std::map<std::string, uint64_t>& counters);

}  // namespace hutch::cli
