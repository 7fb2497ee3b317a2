// The benchmark of a sandbox's creation as a client sees it: from the request to the server until
// the answer to its first command, with templates and without.
#pragma once

#include <cstdint>
#include <string>

namespace hutch::bench {

// As cli/bench_verb.cc read them, which has their defaults.
struct CreateOptions {
  uint32_t count = 0;
  std::string image;
  std::string json_file;  // empty: none
};

// Measures and prints a table on standard output, progress on standard error; writes the list of
// results to options.json_file. Whether the gate is met. Throws BenchFailure, also when a control
// fails.
bool measure_create(const CreateOptions& options);

}  // namespace hutch::bench
