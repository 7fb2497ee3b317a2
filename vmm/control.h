// Control: serves one machine over the VMM protocol until it ends.
#pragma once

#include "base/fd.h"
#include "base/result.h"

namespace hutch::vmm {

// Receives Start on `socket` (protocol/vmm.h), runs the machine, answers, and sends Ended. Returns
// the exit status of the process: 0 when Ended was sent for the guest's or the launcher's reasons,
// 1 for a failure of the host's side. Takes over the calling thread. `page_map`: see
// memory/memory_image.h; without one a machine cannot be saved.
int serve_control(Fd socket, Fd page_map);

}  // namespace hutch::vmm
