// The guest's network: one link with two ends, the guest and the gateway. Nobody else is on it, so
// the addresses are the same in every sandbox.
//
// The names' addresses (198.18.0.0/15) lie behind the gateway, as the whole world does.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>

#include "base/ip_address.h"
#include "protocol/guest_network.h"

namespace hutch::net {

using MacAddress = std::array<uint8_t, 6>;

// Locally administered; the device tells the guest the first as its own (virtio/net).
inline constexpr MacAddress kGuestMac = {0x02, 0x48, 0x55, 0x54, 0x43, 0x01};
inline constexpr MacAddress kGatewayMac = {0x02, 0x48, 0x55, 0x54, 0x43, 0x02};
inline constexpr MacAddress kBroadcastMac = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

inline constexpr IpAddress kGuestAddress = IpAddress::v4(protocol::guest_network::kGuest);
inline constexpr IpAddress kGatewayAddress = IpAddress::v4(protocol::guest_network::kGateway);
inline constexpr IpAddress kNetmask = IpAddress::v4(protocol::guest_network::kNetmask);
inline constexpr uint8_t kPrefixLength = 24;
inline constexpr IpAddress kGuestAddress6 = IpAddress::v6(protocol::guest_network::kGuest6);
inline constexpr IpAddress kGatewayAddress6 = IpAddress::v6(protocol::guest_network::kGateway6);
// DNS is the gateway's too.
inline constexpr IpAddress kDnsAddress = kGatewayAddress;

// Of an IP packet, in bytes. A frame is longer by 14, or, with segmentation, by any number.
inline constexpr uint16_t kMtu = 1500;
inline constexpr std::chrono::seconds kLeaseTime = std::chrono::hours(24);

}  // namespace hutch::net
