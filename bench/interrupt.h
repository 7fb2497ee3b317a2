// SIGINT, SIGTERM and SIGHUP end a benchmark by an exception, so that what it started ends with it.
#pragma once

namespace hutch::bench {

// From now on those signals are noted. For the main thread, once.
void catch_signals();
// The number of the signal that has come; 0: none.
int interrupting_signal();
// Throws BenchFailure when one has come. To be called in each loop that waits.
void throw_if_interrupted();

}  // namespace hutch::bench
