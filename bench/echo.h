// `echo hello` through an agent, which is where every clock stops.
#pragma once

#include <hutch.h>

#include <functional>

namespace hutch::bench {

using IsDone = std::function<bool(const hutch_event&)>;

// From the request to its output and exit status, in nanoseconds. `wait` passes the events of a
// task on until that says so. Throws BenchFailure when the answer is another.
uint64_t echo_by(hutch_agent* agent, const std::function<void(hutch_task, const IsDone&)>& wait);

}  // namespace hutch::bench
