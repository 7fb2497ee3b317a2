// The guest's network: one link with two ends, the guest and the gateway, the same in every
// sandbox, since nobody else is on it. The agent sets it up by these numbers; a guest without our
// agent may ask by DHCP.
#pragma once

#include <array>
#include <cstdint>

namespace hutch::protocol::guest_network {

// IPv4 addresses as numbers, 10.0.2.15 being 0x0a00020f.
inline constexpr uint32_t kGuest = 0x0a00020f;
inline constexpr uint32_t kGateway = 0x0a000202;
inline constexpr uint32_t kNetmask = 0xffffff00;
// The image's resolver (images/configure-root). Any address would do: whatever server a guest asks,
// the gateway answers.
inline constexpr uint32_t kResolver = 0xc6120001;  // 198.18.0.1

// IPv6, where it is on: a unique local prefix (RFC 4193), fd48:7574:6368::/48, whose first network
// is the link.
using Ipv6 = std::array<uint8_t, 16>;
inline constexpr Ipv6 kGuest6{0xfd, 0x48, 0x75, 0x74, 0x63, 0x68, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x15};
inline constexpr Ipv6 kGateway6{0xfd, 0x48, 0x75, 0x74, 0x63, 0x68, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2};
inline constexpr unsigned kPrefixLength6 = 64;
// The second network holds the names: behind 96 bits stands the name's IPv4 address.
inline constexpr Ipv6 kNames6{0xfd, 0x48, 0x75, 0x74, 0x63, 0x68, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0};
// A word of the guest kernel's command line: the agent gives the guest its IPv6 address.
inline constexpr const char* kIpv6Word = "hutch.ipv6";

}  // namespace hutch::protocol::guest_network
