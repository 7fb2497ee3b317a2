// The service's umask: what its own files and the processes that it starts are made with. One for
// all clients of the sandbox. Any thread.
#pragma once

#include <sys/types.h>

namespace hutch::agent::rpc {

// Throws Failure when the kernel does not tell it.
mode_t file_mask();
// Returns the one before; `mask` has the bits of 0777.
mode_t set_file_mask(mode_t mask);

}  // namespace hutch::agent::rpc
