// Whether this host's KVM can run a guest kernel, found out by running instructions.
//
// A /dev/kvm may be an implementation that only emulates ordinary kernels. So the probe runs what
// such kernels use in ring 0, in a VM of 4 MiB of its own, and looks whether it arrives at the end.
#pragma once

#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace hutch::vmm {

// Runs the probe on an open /dev/kvm. The Error says what KVM could not run, and what to do.
Result<void> probe_kvm(Fd kvm);

}  // namespace hutch::vmm
