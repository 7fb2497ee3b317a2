// The two clocks of a sandbox: the wall clock for what clients see, and the clock that counts the
// time since boot, sleep included, for when a sandbox ends.
#pragma once

#include <cstdint>

namespace hutch::control {

// Milliseconds since 1970 (CLOCK_REALTIME).
int64_t wall_ms();
// Milliseconds since boot (CLOCK_BOOTTIME).
int64_t boot_ms();

}  // namespace hutch::control
