// The benchmark of commands and files: round trips over the agent, the server and the npm client,
// side by side.
#pragma once

#include "bench/subject.h"

namespace hutch::bench {

// Measures and prints a table on standard output, progress on standard error; writes the list of
// results to options.json_file. Throws BenchFailure.
void measure_exec(const ExecOptions& options);

}  // namespace hutch::bench
