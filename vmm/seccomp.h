// The VMM's system call filters: one per kind of thread, from the tables in vmm/seccomp/.
//
// Each thread narrows itself before the guest runs its first instruction, and for good. A call
// outside its table kills the process; the launcher sees SIGSYS.
#pragma once

#include "base/result.h"

namespace hutch::vmm {

enum class ThreadKind { kMain, kVcpu, kBlock, kNetwork };

// What the thread is called: "hutch-main", ...
const char* name(ThreadKind kind);

// Installs the filter of `kind` on the calling thread and names the thread after it.
Result<void> install_seccomp(ThreadKind kind);

}  // namespace hutch::vmm
