// Reading and writing files of the guest for the host, with the rights of a user of the guest.
//
// A child does it: it takes on the user's identity, so that the kernel decides what is allowed, and
// a file that blocks (a FIFO, a file system in user space) blocks that child alone.
#pragma once

#include <memory>

#include "guest-agent/process.h"

namespace hutch::agent {

// Both answer on the channel as protocol/agent.h says; dropping the operation stops the transfer.
std::unique_ptr<Operation> start_reading(Services& services, Outbox& outbox, uint32_t channel,
                                         const protocol::agent::ReadFile& request);
std::unique_ptr<Operation> start_writing(Services& services, Outbox& outbox, uint32_t channel,
                                         const protocol::agent::WriteFile& request);

}  // namespace hutch::agent
