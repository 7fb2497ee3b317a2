// A child process with pipes.
#pragma once

#include <string>
#include <vector>

#include "base/fd.h"

namespace hutch::bench {

struct Child {
  int process_id = 0;
  Fd input;   // its standard input; closed: /dev/null
  Fd output;  // its standard output
};

// Starts a program that is looked up in PATH; its standard error is ours. Throws BenchFailure.
Child start_child(const std::vector<std::string>& words, bool with_input = false);
// Waits for its end; its exit status, 128+n after signal n.
int wait_for(const Child& child);
// All that is to come.
std::string read_to_end(const Fd& fd);
// Up to the next line feed, which is not part of the result. Throws BenchFailure at the end of the
// file.
std::string read_line(const Fd& fd);

}  // namespace hutch::bench
