// The benchmark of a start, on any KVM that runs a few instructions: setting KVM up, and the way
// from a program's start to its guest's first instruction.
#pragma once

#include <cstdint>
#include <string>

namespace hutch::bench {

// As cli/bench_verb.cc read them, which has their defaults.
struct SetupOptions {
  uint32_t count = 0;      // turns of each side of the set-up
  uint32_t run_count = 0;  // of each side of the programs' start
  std::string qemu;        // program; empty: without that peer
  std::string json_file;   // empty: none
};

// Measures and prints tables on standard output, progress on standard error; writes the list of
// results to options.json_file. Whether all gates are met. Throws BenchFailure, also when a control
// fails.
bool measure_setup(const SetupOptions& options);

}  // namespace hutch::bench
