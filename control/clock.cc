#include "control/clock.h"

#include <time.h>

namespace hutch::control {
namespace {

int64_t read_ms(clockid_t clock) {
  timespec now{};
  ::clock_gettime(clock, &now);
  return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
}

}  // namespace

int64_t wall_ms() {
  return read_ms(CLOCK_REALTIME);
}

int64_t boot_ms() {
  return read_ms(CLOCK_BOOTTIME);
}

}  // namespace hutch::control
