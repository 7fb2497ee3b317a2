// Marks: when a machine has come how far, from before the process of its VMM (T0).
#pragma once

#include <string_view>

#include "bench/machine.h"
#include "bench/turns.h"

namespace hutch::bench {

constexpr const char* kFirstRun = "first_run";

constexpr double ms_since(uint64_t start, uint64_t end) {
  return static_cast<double>(end - start) / 1e6;
}

// Adds a row for each mark that was set, in milliseconds from `start` (CLOCK_MONOTONIC, ns), and
// what the steps of the VMM took until it ran a guest. Asks the machine for its counters.
void add_marks(Values& values, Machine& machine, uint64_t start);
// Whether a row is one of those steps.
bool is_step(std::string_view row);
// The marks of a side; `reply` is the row of the answer.
void print_marks(const Side& side, const char* reply);

}  // namespace hutch::bench
