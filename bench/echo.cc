#include "bench/echo.h"

#include <fmt/format.h>

#include <string>

#include "base/sys.h"
#include "bench/machine.h"
#include "bench/subject.h"

namespace hutch::bench {

std::string output_by(hutch_agent* agent, const char* const* arguments,
                      const std::function<void(hutch_task, const IsDone&)>& wait) {
  hutch_process_options process{};
  process.size = sizeof process;
  process.arguments = arguments;
  process.user = "app";
  std::string output;
  int open_streams = 2;
  bool exited = false;
  hutch_task task = 0;
  hutch_error* error = nullptr;
  check(hutch_process_start(agent, &process, &task, &error), error);
  wait(task, [&](const hutch_event& event) {
    if (event.kind == HUTCH_EVENT_OUTPUT)
      output.append(static_cast<const char*>(event.data), event.data_size);
    if (event.kind == HUTCH_EVENT_OUTPUT_END) open_streams--;
    if (event.kind == HUTCH_EVENT_EXITED) {
      exited = true;
      if (event.signaled != 0 || event.value != 0)
        throw BenchFailure(fmt::format("{} failed in the guest", arguments[0]));
    }
    return exited && open_streams == 0;
  });
  return output;
}

uint64_t echo_by(hutch_agent* agent, const std::function<void(hutch_task, const IsDone&)>& wait) {
  const char* arguments[] = {"/bin/echo", "hello", nullptr};
  uint64_t start = monotonic_ns();
  std::string output = output_by(agent, arguments, wait);
  uint64_t end = monotonic_ns();
  if (output != "hello\n") throw BenchFailure("echo said something else in the guest");
  return end - start;
}

}  // namespace hutch::bench
