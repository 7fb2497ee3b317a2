#include "bench/interrupt.h"

#include <signal.h>

#include "bench/subject.h"

namespace hutch::bench {
namespace {

volatile sig_atomic_t caught = 0;

void note(int number) {
  caught = number;
}

}  // namespace

void catch_signals() {
  struct sigaction action {};
  // Without SA_RESTART: what waits is to look.
  action.sa_handler = note;
  for (int number : {SIGINT, SIGTERM, SIGHUP}) ::sigaction(number, &action, nullptr);
}

int interrupting_signal() {
  return caught;
}

void throw_if_interrupted() {
  if (caught != 0) throw BenchFailure("interrupted");
}

}  // namespace hutch::bench
