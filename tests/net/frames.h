// The guest's frames for tests: right by default, and wrong in one place on demand.
#pragma once

#include <algorithm>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "net/checksum.h"
#include "net/packet.h"

namespace hutch::testing {

using Bytes = std::vector<std::byte>;

inline Bytes bytes(std::initializer_list<int> values) {
  Bytes result;
  for (int value : values) result.push_back(static_cast<std::byte>(value));
  return result;
}
inline std::string text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
template <typename T>
void append(Bytes& bytes, const T& object) {
  const auto added = std::as_bytes(std::span(&object, 1));
  bytes.insert(bytes.end(), added.begin(), added.end());
}
inline void append(Bytes& bytes, std::string_view text) {
  const auto added = std::as_bytes(std::span(text));
  bytes.insert(bytes.end(), added.begin(), added.end());
}
template <typename T>
T read_at(std::span<const std::byte> bytes, size_t offset) {
  T value{};
  if (bytes.size() >= offset + sizeof value)
    std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

struct FrameMaker {
  net::MacAddress source_mac = net::kGuestMac;
  net::MacAddress destination_mac = net::kGatewayMac;
  uint16_t type = net::wire::kTypeIpv4;
  IpAddress source = net::kGuestAddress;
  IpAddress destination = IpAddress::v4(93, 184, 216, 34);
  uint16_t guest_port = 40000;
  uint16_t far_port = 443;
  Bytes options;              // TCP's, instead of the segment's
  bool bad_checksum = false;  // of TCP, UDP or ICMP
  bool no_udp_checksum = false;
  // Changes before checksums are made.
  std::function<void(net::wire::Ipv4&)> change_ip = [](net::wire::Ipv4&) {};
  std::function<void(net::wire::Ipv6&)> change_ip6 = [](net::wire::Ipv6&) {};
  std::function<void(net::wire::Tcp&)> change_tcp = [](net::wire::Tcp&) {};
  std::function<void(net::wire::Udp&)> change_udp = [](net::wire::Udp&) {};
  std::function<void(net::wire::Arp&)> change_arp = [](net::wire::Arp&) {};

  Bytes ethernet(std::span<const std::byte> payload) const {
    Bytes frame;
    append(frame, net::wire::Ethernet{destination_mac, source_mac, type});
    frame.insert(frame.end(), payload.begin(), payload.end());
    return frame;
  }

  // From the guest's IPv6 address, to one far away.
  static FrameMaker version6() {
    FrameMaker maker;
    maker.type = net::wire::kTypeIpv6;
    maker.source = net::kGuestAddress6;
    maker.destination = *IpAddress::parse("2606:2800:220:1:248:1893:25c8:1946");
    return maker;
  }

  Bytes ip6(uint8_t protocol, std::span<const std::byte> payload) const {
    net::wire::Ipv6 header{.version_class_flow = uint32_t{6} << 28,
                           .payload_length = static_cast<uint16_t>(payload.size()),
                           .next_header = protocol,
                           .hop_limit = 255,
                           .source = {},
                           .destination = {}};
    std::ranges::copy(source.bytes(), header.source.begin());
    std::ranges::copy(destination.bytes(), header.destination.begin());
    change_ip6(header);
    Bytes packet;
    append(packet, header);
    packet.insert(packet.end(), payload.begin(), payload.end());
    return ethernet(packet);
  }

  // Of the source's version.
  Bytes ip(uint8_t protocol, std::span<const std::byte> payload) const {
    if (source.is_v6()) return ip6(protocol, payload);
    net::wire::Ipv4 header{
        .version_and_length = 0x45,
        .service = 0,
        .total_length = static_cast<uint16_t>(sizeof(net::wire::Ipv4) + payload.size()),
        .identification = 1,
        .fragment = 0x4000,
        .time_to_live = 64,
        .protocol = protocol,
        .checksum = 0,
        .source = source.v4_value(),
        .destination = destination.v4_value()};
    change_ip(header);
    header.checksum = net::Checksum().add_object(header).value();
    Bytes packet;
    append(packet, header);
    packet.insert(packet.end(), payload.begin(), payload.end());
    return ethernet(packet);
  }

  uint16_t sum(uint8_t protocol, const Bytes& payload) const {
    const uint16_t pseudo = net::pseudo_header_sum(source, destination, protocol, payload.size());
    const uint16_t right = net::Checksum().add_object(pseudo).add(payload).value();
    return bad_checksum ? static_cast<uint16_t>(right ^ 0x5555) : right;
  }

  Bytes tcp(const net::TcpSegment& segment, std::string_view payload) const {
    Bytes extra = options;
    if (options.empty() && segment.mss)
      extra = bytes({2, 4, *segment.mss >> 8, *segment.mss & 0xff});
    if (options.empty() && segment.window_scale)
      for (int value : {1, 3, 3, int{*segment.window_scale}})
        extra.push_back(static_cast<std::byte>(value));
    while (extra.size() % 4 != 0) extra.push_back(std::byte{1});
    net::wire::Tcp header{
        .source_port = guest_port,
        .destination_port = far_port,
        .sequence = segment.sequence,
        .acknowledgement = segment.acknowledgement,
        .data_offset = static_cast<uint8_t>((sizeof(net::wire::Tcp) + extra.size()) / 4 << 4),
        .flags = segment.flags,
        .window = segment.window,
        .checksum = 0,
        .urgent = 0xffff};
    change_tcp(header);
    Bytes packet;
    append(packet, header);
    packet.insert(packet.end(), extra.begin(), extra.end());
    append(packet, payload);
    header.checksum = sum(net::wire::kProtocolTcp, packet);
    std::memcpy(packet.data(), &header, sizeof header);
    return ip(net::wire::kProtocolTcp, packet);
  }

  Bytes udp(std::string_view payload) const {
    net::wire::Udp header{.source_port = guest_port,
                          .destination_port = far_port,
                          .length = static_cast<uint16_t>(sizeof(net::wire::Udp) + payload.size()),
                          .checksum = 0};
    change_udp(header);
    Bytes packet;
    append(packet, header);
    append(packet, payload);
    header.checksum = no_udp_checksum ? uint16_t{0} : sum(net::wire::kProtocolUdp, packet);
    std::memcpy(packet.data(), &header, sizeof header);
    return ip(net::wire::kProtocolUdp, packet);
  }

  Bytes icmp(uint8_t kind, uint8_t code, std::string_view payload) const {
    net::wire::Icmp header{.type = kind, .code = code, .checksum = 0, .rest = 0x00010002};
    Bytes packet;
    append(packet, header);
    append(packet, payload);
    const uint8_t protocol = source.is_v4() ? net::wire::kProtocolIcmp : net::wire::kProtocolIcmp6;
    const uint16_t pseudo =
        source.is_v4() ? uint16_t{0}
                       : net::pseudo_header_sum(source, destination, protocol, packet.size());
    header.checksum = net::Checksum().add_object(pseudo).add(packet).value();
    if (bad_checksum) header.checksum ^= 0x5555;
    std::memcpy(packet.data(), &header, sizeof header);
    return ip(protocol, packet);
  }

  Bytes arp(uint16_t operation, const IpAddress& target) const {
    net::wire::Arp message{.hardware = 1,
                           .protocol = net::wire::kTypeIpv4,
                           .hardware_size = 6,
                           .protocol_size = 4,
                           .operation = operation,
                           .sender_mac = source_mac,
                           .sender = source.v4_value(),
                           .target_mac = {},
                           .target = target.v4_value()};
    change_arp(message);
    FrameMaker maker = *this;
    maker.type = net::wire::kTypeArp;
    return maker.ethernet(std::as_bytes(std::span(&message, 1)));
  }
};

}  // namespace hutch::testing
