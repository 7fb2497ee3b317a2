// The broker's jail: what a broker that its guest, or a server out there, has taken over still has.
// Its descriptors, and the network; no file, no capability, no other process.
#pragma once

#include "base/result.h"

namespace hutch::broker {

// Shuts the calling process, which has one thread, in, for good; all files have been opened. Where
// the host gives an ordinary user no namespaces, those are left out with a warning: the filter of
// system calls stands anyway, and lets no file be opened.
Result<void> enter_jail();

}  // namespace hutch::broker
