// Commands through an agent: `echo hello` is where every clock stops.
#pragma once

#include <hutch.h>

#include <functional>
#include <string>

namespace hutch::bench {

using IsDone = std::function<bool(const hutch_event&)>;

// What a command says, up to its end; `arguments` ends with null. Throws BenchFailure when it
// fails.
std::string output_by(hutch_agent* agent, const char* const* arguments,
                      const std::function<void(hutch_task, const IsDone&)>& wait);
// From the request to its output and exit status, in nanoseconds. `wait` passes the events of a
// task on until that says so. Throws BenchFailure when the answer is another.
uint64_t echo_by(hutch_agent* agent, const std::function<void(hutch_task, const IsDone&)>& wait);

}  // namespace hutch::bench
