// System call filters, as tools/seccomp compiles them.
#pragma once

#include <linux/filter.h>

#include <span>

#include "base/result.h"

namespace hutch {

// From now on the calling thread, and what it starts, makes only the calls that `program` lets
// pass; another one kills the process. The thread gets `name` (at most 15 characters), and can gain
// no privileges any more.
Result<void> install_seccomp_filter(const char* name, std::span<const sock_filter> program);

}  // namespace hutch
