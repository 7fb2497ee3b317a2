// What the agent sets in the kernel it runs on: network, limits and settings at the start; clock,
// entropy and name when the host says them.
#pragma once

#include "base/result.h"
#include "protocol/agent.h"

namespace hutch::agent {

// Brings the loopback device up.
Result<void> bring_loopback_up();
// Gives the network device its address and the way out (protocol/guest_network.h); nothing without
// one.
Result<void> bring_network_up(bool ipv6);
// Kernel settings (/proc/sys, /sys/kernel) and resource limits that programs of a development
// machine expect. One that the kernel does not have is passed over.
void apply_settings();
// Protects the agent from the out-of-memory killer; children give that up.
Result<void> protect_from_memory_killer();
// Sets what `hello` carries; a failure is logged, for the sandbox works without, except that
// entropy which does not arrive ends the agent: two sandboxes must never share their randomness.
void apply_hello(const protocol::agent::Hello& hello);

}  // namespace hutch::agent
