// The benchmark of many machines: how much memory one costs that does nothing, how many can be made
// in a second, how long one takes when many are made at once, and that nothing is left of them.
#pragma once

#include <cstdint>
#include <string>

namespace hutch::bench {

// As cli/bench_verb.cc read them, which has their defaults.
struct DensityOptions {
  uint32_t most = 0;       // idle forks
  uint32_t limit_mib = 0;  // of their own memory, after which no more are made
  uint32_t burst = 0;      // forks made at once
  uint32_t seconds = 0;    // for which they are made one after another on each CPU
  uint32_t memory_mib = 0;
  std::string image;
  std::string json_file;  // empty: none
};

// Measures and prints a table on standard output, progress on standard error; writes the list of
// results to options.json_file. Throws BenchFailure, also when two machines have the same identity
// or something of one is left.
void measure_density(const DensityOptions& options);

}  // namespace hutch::bench
