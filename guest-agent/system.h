// What the agent sets in the kernel it runs on: network, limits and settings at the start; clock,
// entropy and name when the host says them.
#pragma once

#include <string>
#include <string_view>

#include "base/fd.h"
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

// Sets the hardware address (6 bytes) of the network device; nothing without one. `ipv6` as above,
// for a driver that takes a new address only from a device that is down.
Result<void> set_hardware_address(std::string_view mac, bool ipv6);

// Has the clock chip interrupt once a second, and its emulation 64 times, for as long as the result
// is open (docs/emulated-machine.md says what for); an empty descriptor where there is none.
Result<Fd> start_clock_interrupts();

struct Applied {
  bool reseeded = false;  // there was entropy, and the kernel's random numbers come from it now
  std::string problem;    // what of the identity could not be set; empty: nothing
};
// Sets what `hello` carries. Entropy comes first, and one that does not arrive ends the agent: two
// sandboxes must never share their randomness. Of the clock and the host name a failure is logged,
// for the sandbox works without. `owns_files`: the host name is written to files as well.
Applied apply_hello(const protocol::agent::Hello& hello, bool ipv6, bool owns_files);

}  // namespace hutch::agent
