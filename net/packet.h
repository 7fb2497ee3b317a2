// Packets: what a frame of the guest says, as values. Ethernet II, ARP (RFC 826), IPv4 (RFC 791),
// IPv6 (RFC
// 8200), TCP (RFC 9293), UDP (RFC 768), ICMP (RFC 792, RFC 4443).
//
// Strict: what a parser here lets through has one meaning only. No fragments, no IP options, no
// extension headers, no
// frame that is longer or shorter than the packet in it (but Ethernet's padding), no wrong
// checksum, unless the frame's FrameOffload leaves that one open.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <tl/expected.hpp>

#include "base/frames.h"
#include "base/ip_address.h"
#include "net/big_endian.h"
#include "net/counters.h"
#include "net/network.h"
#include "net/tcp_segment.h"

namespace hutch::net {

// --- As it lies on the wire ---------------------------------------------------------------------

namespace wire {
inline constexpr uint16_t kTypeIpv4 = 0x0800;
inline constexpr uint16_t kTypeArp = 0x0806;
inline constexpr uint16_t kTypeIpv6 = 0x86dd;
inline constexpr uint8_t kProtocolIcmp = 1;
inline constexpr uint8_t kProtocolTcp = 6;
inline constexpr uint8_t kProtocolUdp = 17;
inline constexpr uint8_t kProtocolFragment = 44;
inline constexpr uint8_t kProtocolIcmp6 = 58;
inline constexpr uint16_t kArpRequest = 1;
inline constexpr uint16_t kArpReply = 2;
inline constexpr uint8_t kIcmpEchoReply = 0;
inline constexpr uint8_t kIcmpUnreachable = 3;
inline constexpr uint8_t kIcmpEchoRequest = 8;
inline constexpr uint8_t kIcmpCodeProhibited = 13;
inline constexpr uint8_t kIcmp6Unreachable = 1;
inline constexpr uint8_t kIcmp6CodeProhibited = 1;
inline constexpr uint8_t kIcmp6EchoRequest = 128;
inline constexpr uint8_t kIcmp6EchoReply = 129;
inline constexpr uint8_t kNeighborSolicitation = 135;
inline constexpr uint8_t kNeighborAdvertisement = 136;

struct Ethernet {
  MacAddress destination;
  MacAddress source;
  be16 type;
};
static_assert(sizeof(Ethernet) == 14);

struct Arp {
  be16 hardware;
  be16 protocol;
  uint8_t hardware_size;
  uint8_t protocol_size;
  be16 operation;
  MacAddress sender_mac;
  be32 sender;
  MacAddress target_mac;
  be32 target;
};
static_assert(sizeof(Arp) == 28);

struct Ipv4 {
  uint8_t version_and_length;
  uint8_t service;
  be16 total_length;
  be16 identification;
  be16 fragment;
  uint8_t time_to_live;
  uint8_t protocol;
  uint16_t checksum;  // see Checksum: in no byte order of its own
  be32 source;
  be32 destination;
};
static_assert(sizeof(Ipv4) == 20);

struct Ipv6 {
  be32 version_class_flow;
  be16 payload_length;
  uint8_t next_header;
  uint8_t hop_limit;
  std::array<uint8_t, 16> source;
  std::array<uint8_t, 16> destination;
};
static_assert(sizeof(Ipv6) == 40);

struct Tcp {
  be16 source_port;
  be16 destination_port;
  be32 sequence;
  be32 acknowledgement;
  uint8_t data_offset;
  uint8_t flags;
  be16 window;
  uint16_t checksum;
  be16 urgent;
};
static_assert(sizeof(Tcp) == 20);

struct Udp {
  be16 source_port;
  be16 destination_port;
  be16 length;
  uint16_t checksum;
};
static_assert(sizeof(Udp) == 8);

struct Icmp {
  uint8_t type;
  uint8_t code;
  uint16_t checksum;
  be32 rest;
};
static_assert(sizeof(Icmp) == 8);
}  // namespace wire

// --- As values; every field is guest-controlled -------------------------------------------------

template <typename T>
using Parsed = tl::expected<T, Drop>;

struct EthernetFrame {
  MacAddress destination;
  MacAddress source;
  uint16_t type = 0;
  std::span<const std::byte> payload;
};
Parsed<EthernetFrame> parse_ethernet(std::span<const std::byte> frame, const FrameOffload& offload);

struct ArpMessage {
  uint16_t operation = 0;
  MacAddress sender_mac;
  IpAddress sender;
  MacAddress target_mac;
  IpAddress target;
};
Parsed<ArpMessage> parse_arp(std::span<const std::byte> payload);

// An IP packet of either version.
struct IpPacket {
  IpAddress source;
  IpAddress destination;
  uint8_t protocol = 0;
  uint8_t hop_limit = 0;
  std::span<const std::byte> whole;    // header and payload
  std::span<const std::byte> payload;  // its last bytes
  size_t payload_offset = 0;           // in the frame
};
Parsed<IpPacket> parse_ipv4(const EthernetFrame& frame);
Parsed<IpPacket> parse_ipv6(const EthernetFrame& frame);

struct TcpPacket {
  uint16_t source_port = 0;
  uint16_t destination_port = 0;
  TcpSegment segment;
};
Parsed<TcpPacket> parse_tcp(const IpPacket& packet, const FrameOffload& offload);

struct UdpPacket {
  uint16_t source_port = 0;
  uint16_t destination_port = 0;
  std::span<const std::byte> payload;
};
Parsed<UdpPacket> parse_udp(const IpPacket& packet, const FrameOffload& offload);

struct IcmpMessage {
  uint8_t type = 0;
  uint8_t code = 0;
  uint32_t rest = 0;  // identifier and sequence number of an echo
  std::span<const std::byte> payload;
};
Parsed<IcmpMessage> parse_icmp(const IpPacket& packet, const FrameOffload& offload);

// The pseudo header's share of a transport checksum (RFC 9293 section 3.1, RFC 8200 section 8.1).
uint16_t pseudo_header_sum(const IpAddress& source, const IpAddress& destination, uint8_t protocol,
                           size_t length);

}  // namespace hutch::net
