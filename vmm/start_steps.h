// StartSteps: what each step from the start of the process to the first KVM_RUN cost, and whether
// it waited.
//
// Waiting, not computing, makes a start slow, and wall time on a busy machine cannot show it. So
// each step is judged by the time that its thread was blocked: wall time less CPU time, less the
// time that it was ready to run while the processors were busy with others (Linux
// Documentation/scheduler/sched-stats.rst, /proc/PID/schedstat). More than 100 us is a wait.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/fd.h"
#include "protocol/vmm.h"

namespace hutch::vmm {

class StartSteps {
 public:
  StartSteps();

  // Ends the step that began at the previous call (or construction). Only the thread that made
  // this.
  void done(const char* step);

  // "waits_until_first_run", and "start_ns/STEP", "off_cpu_ns/STEP" for each step.
  void add_to(std::vector<protocol::vmm::Counter>& list) const;

 private:
  struct Moment {
    uint64_t wall_ns = 0;
    uint64_t cpu_ns = 0;
    uint64_t ready_ns = 0;  // on a run queue; 0 where the host does not say
    long switches = 0;      // voluntary context switches
  };
  struct Step {
    const char* name;
    uint64_t wall_ns = 0;
    uint64_t off_cpu_ns = 0;  // 0 when the thread did not block
  };
  Moment now() const;

  Fd schedstat_;
  Moment last_;
  std::vector<Step> steps_;
};

}  // namespace hutch::vmm
