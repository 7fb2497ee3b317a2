// The guest's network: one link with two ends, the guest and the gateway, the same in every
// sandbox, since nobody else is on it. The agent sets it up by these numbers; a guest without our
// agent may ask by DHCP.
#pragma once

#include <cstdint>

namespace hutch::protocol::guest_network {

// IPv4 addresses as numbers, 10.0.2.15 being 0x0a00020f.
inline constexpr uint32_t kGuest = 0x0a00020f;
inline constexpr uint32_t kGateway = 0x0a000202;
inline constexpr uint32_t kNetmask = 0xffffff00;
// The image's resolver (images/configure-root). Any address would do: whatever server a guest asks,
// the gateway answers.
inline constexpr uint32_t kResolver = 0xc6120001;  // 198.18.0.1

}  // namespace hutch::protocol::guest_network
