// The signals that the program passes on, as a descriptor.
#pragma once

#include <signal.h>

#include <optional>

#include "base/fd.h"

namespace hutch::cli {

// Blocks INT, TERM, HUP, QUIT, USR1, USR2, PIPE, WINCH and CONT, as far as they were not ignored
// when the program started (nohup, background jobs). Restores nothing: the program ends afterwards.
class Signals {
 public:
  Signals();
  int fd() const { return fd_.get(); }
  // The next signal that has arrived.
  std::optional<int> take();

 private:
  Fd fd_;
};

}  // namespace hutch::cli
