// Dhcp: gives the guest its address (RFC 2131, RFC 2132), always the same one: there is only one
// guest on the link. Without state, so that nothing can be starved or used up.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "base/ip_address.h"

namespace hutch::net {

inline constexpr uint16_t kDhcpServerPort = 67;
inline constexpr uint16_t kDhcpClientPort = 68;

struct DhcpAnswer {
  std::vector<std::byte> message;  // as it lies behind a UDP header
  IpAddress destination;           // the guest's, or broadcast
};

// The answer to a message of the guest (guest-controlled, without the UDP header): an offer to
// DISCOVER, an acknowledgement to REQUEST and INFORM, a refusal to a REQUEST for another address.
// Nothing for all else.
std::optional<DhcpAnswer> answer_dhcp(std::span<const std::byte> message);

}  // namespace hutch::net
