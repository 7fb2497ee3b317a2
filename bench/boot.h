// The benchmark of a cold boot: from before the process of the monitor to the answer of a command,
// ours beside others with the same kernel, initramfs, image and agent.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace hutch::bench {

// As cli/bench_verb.cc read them, which has their defaults.
struct BootOptions {
  uint32_t count = 0, memory_mib = 0;
  std::string image;
  std::vector<std::string> peers;  // NAME=PATH
  std::string json_file;           // empty: none
};

// Measures and prints tables on standard output, progress on standard error; writes the list of
// results to options.json_file. Whether all gates are met. Throws BenchFailure, also when a control
// fails.
bool measure_boot(const BootOptions& options);

}  // namespace hutch::bench
