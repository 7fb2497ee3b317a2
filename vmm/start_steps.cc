#include "vmm/start_steps.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <cstring>

#include "base/sys.h"
#include "vmm/exit_counters.h"

namespace hutch::vmm {
namespace {
constexpr uint64_t kWaitThresholdNs = 100'000;
}

StartSteps::StartSteps() {
  // Where there is no /proc or no such file, time on a run queue counts as blocked.
  if (Result<Fd> opened = open_file("/proc/thread-self/schedstat", O_RDONLY))
    schedstat_ = *std::move(opened);
  last_ = now();
}

StartSteps::Moment StartSteps::now() const {
  Moment moment;
  moment.wall_ns = monotonic_ns();
  timespec cpu{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu);
  moment.cpu_ns =
      static_cast<uint64_t>(cpu.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(cpu.tv_nsec);
  rusage usage{};
  ::getrusage(RUSAGE_THREAD, &usage);
  moment.switches = usage.ru_nvcsw;
  // "CPU-ns READY-ns TIMESLICES"
  std::array<char, 64> text{};
  if (schedstat_ && ::pread(schedstat_.get(), text.data(), text.size() - 1, 0) > 0) {
    char* ready = std::strchr(text.data(), ' ');
    if (ready != nullptr) moment.ready_ns = std::strtoull(ready, nullptr, 10);
  }
  return moment;
}

void StartSteps::done(const char* step) {
  Moment end = now();
  uint64_t wall = end.wall_ns - last_.wall_ns;
  uint64_t cpu = end.cpu_ns - last_.cpu_ns;
  uint64_t on_queue_or_cpu = cpu + end.ready_ns - last_.ready_ns;
  bool blocked = end.switches > last_.switches && wall > on_queue_or_cpu;
  steps_.push_back({step, wall, blocked ? wall - on_queue_or_cpu : 0});
  last_ = end;
}

void StartSteps::add_to(std::vector<protocol::vmm::Counter>& list) const {
  uint64_t waits = 0;
  for (const Step& step : steps_) {
    waits += step.off_cpu_ns > kWaitThresholdNs;
    add_counter(list, fmt::format("start_ns/{}", step.name), step.wall_ns);
    add_counter(list, fmt::format("off_cpu_ns/{}", step.name), step.off_cpu_ns);
  }
  add_counter(list, "waits_until_first_run", waits);
}

}  // namespace hutch::vmm
