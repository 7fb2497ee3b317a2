// A machine of libhutch as the benchmarks have it: as a sandbox of the server, booted or restored.
#pragma once

#include <hutch.h>

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "artefacts/artefacts.h"
#include "base/fd.h"

namespace hutch::bench {

// What a machine was saved to, in files without names.
struct SavedMachine {
  Fd memory, state;
  std::vector<Fd> layers;  // of the writable disk, from below
  Fd pages;                // what the first command of one that went on with it needed; or none
  uint8_t key[16] = {};
  uint64_t memory_bytes = 0;  // that are no holes
};

// What a fork may have at hand.
struct Prepared {
  hutch_shell* shell = nullptr;  // a process that was made ahead
  bool has_pages = false;        // those that `saved` says are there before the guest runs
};

class Machine {
 public:
  // Starts it; throws BenchFailure, as all here.
  Machine(const artefacts::Parts& parts, uint64_t memory, const SavedMachine* saved = nullptr,
          uint32_t cpus = 2, const Prepared& prepared = {});
  ~Machine();
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  hutch_vm* vm() { return vm_; }
  hutch_agent* agent() { return hutch_vm_agent(vm_); }
  // `echo hello`, from the request to its output and exit status. Nanoseconds.
  uint64_t echo();
  // What a command says, up to its end; `arguments` ends with null.
  std::string output(const char* const* arguments);
  // Stands still, is saved to files in `folder`, and goes on; all in nanoseconds.
  SavedMachine save(const std::string& folder);
  // Which pages it has needed so far, in a file in `folder`.
  Fd record_pages(const std::string& folder);
  uint64_t paused_ns() const { return paused_ns_; }
  // Passes the events of `task` on (0: those of the machine) until `is_done` says so.
  void wait(hutch_task task, const std::function<bool(const hutch_event&)>& is_done);
  // When a mark was set, of CLOCK_MONOTONIC; nothing: not yet.
  std::optional<uint64_t> mark(hutch_mark mark) const { return marks_[mark]; }
  // The VMM's counters as of now.
  std::map<std::string, uint64_t> counters();
  // Memory of the VMM's process that is its own: what it has written.
  uint64_t private_kib() const;

 private:
  hutch_vm* vm_ = nullptr;
  uint64_t paused_ns_ = 0;
  std::optional<uint64_t> marks_[8];
};

// A process with an empty VM, made long enough ago to be ready.
hutch_shell* ready_shell(const artefacts::Parts& parts);

// Throws what a call of the library said.
void check(int code, hutch_error* error);

}  // namespace hutch::bench
