// Starts the processes of a machine: its VMM and its broker.
#pragma once

#include <sys/types.h>

#include <string>

#include "base/fd.h"

namespace hutch::lib {

struct ChildOptions {
  std::string path;
  int control = -1;  // the child's end of the control socket
  int log = -1;      // its standard error; -1: /dev/null
  bool end_with_thread = false;
};

struct Child {
  pid_t process_id = 0;
  Fd process;  // a pidfd; polls readable when the process has ended
};

// Runs `path --control-fd 3` in a session of its own, so that a terminal's Ctrl-C does not reach
// it, with nothing open but that socket and the standard descriptors, default signal handling, and
// an empty environment: what the launcher's holds is none of the VMM's business.
Result<Child> start_child(const ChildOptions& options);

// Kills it, and waits for its end.
void kill_child(const Child& child);

}  // namespace hutch::lib
