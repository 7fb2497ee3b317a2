// Runs a helper program and reads what it prints.
#pragma once

#include <string>
#include <vector>

namespace hutch::cli {

struct ChildResult {
  int exit_code = 0;   // 128+n when signal n ended it
  std::string output;  // of its standard output, at most 64 KiB
};

// Waits for the end, for at most `timeout_ms`; then kills it and throws a Failure. Standard error
// is ours.
ChildResult run_child(const std::vector<std::string>& arguments, int timeout_ms);

}  // namespace hutch::cli
