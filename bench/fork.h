// The benchmark of forks: from nothing to the answer to a command, by a boot and by a fork of a
// machine that was saved, in turns.
#pragma once

#include <cstdint>
#include <string>

namespace hutch::bench {

// As cli/bench_verb.cc read them, which has their defaults.
struct ForkOptions {
  uint32_t count = 0, memory_mib = 0;
  std::string image;
  std::string json_file;  // empty: none
};

// Measures and prints a table on standard output, progress on standard error; writes the list of
// results to options.json_file. Whether the gates are met. Throws BenchFailure, also when a control
// fails (turns.h).
bool measure_fork(const ForkOptions& options);

}  // namespace hutch::bench
