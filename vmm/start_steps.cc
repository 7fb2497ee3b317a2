#include "vmm/start_steps.h"

#include <sys/resource.h>
#include <time.h>

#include "base/sys.h"
#include "vmm/exit_counters.h"

namespace hutch::vmm {
namespace {
constexpr uint64_t kWaitThresholdNs = 100'000;
}

StartSteps::Moment StartSteps::now() {
  rusage usage{};
  ::getrusage(RUSAGE_THREAD, &usage);
  timespec cpu{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu);
  return {monotonic_ns(),
          static_cast<uint64_t>(cpu.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(cpu.tv_nsec),
          usage.ru_nvcsw};
}

void StartSteps::done(const char* step) {
  Moment end = now();
  uint64_t wall = end.wall_ns - last_.wall_ns;
  uint64_t cpu = end.cpu_ns - last_.cpu_ns;
  bool blocked = end.blocked > last_.blocked;
  steps_.push_back({step, wall, blocked && wall > cpu ? wall - cpu : 0});
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
