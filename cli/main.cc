// hutch: the command line. Each verb describes and does itself in a file of its own.
#include "base/sys.h"
#include "cli/arguments.h"

int main(int count, char** words) {
  uint64_t start_ns = hutch::monotonic_ns();
  return hutch::cli::run_program(count, words, start_ns);
}
