#include "net/packet.h"

#include <doctest/doctest.h>

#include <random>

#include "net/checksum.h"
#include "tests/net/frames.h"

namespace hutch::net {
namespace {

using testing::Bytes;
using testing::FrameMaker;

Parsed<IpPacket> parse_ip(const Bytes& frame, const FrameOffload& offload = {}) {
  auto ethernet = parse_ethernet(frame, offload);
  if (!ethernet) return tl::unexpected(ethernet.error());
  return parse_ipv4(*ethernet);
}
Parsed<TcpPacket> parse_tcp(const Bytes& frame, const FrameOffload& offload = {}) {
  auto packet = parse_ip(frame, offload);
  if (!packet) return tl::unexpected(packet.error());
  return parse_tcp(*packet, offload);
}
Parsed<UdpPacket> parse_udp(const Bytes& frame, const FrameOffload& offload = {}) {
  auto packet = parse_ip(frame, offload);
  if (!packet) return tl::unexpected(packet.error());
  return parse_udp(*packet, offload);
}
// The reason for a drop; kCount: none.
template <typename T>
Drop reason(const Parsed<T>& parsed) {
  return parsed ? Drop::kCount : parsed.error();
}

TEST_CASE("the checksum of any cut into pieces is that of the whole") {
  std::mt19937 random(7);
  Bytes bytes(257);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  // As RFC 1071 defines it.
  uint32_t sum = 0;
  for (size_t i = 0; i < bytes.size(); i += 2)
    sum += std::to_integer<uint32_t>(bytes[i]) << 8 |
           (i + 1 < bytes.size() ? std::to_integer<uint32_t>(bytes[i + 1]) : 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
  const be16 expected = static_cast<uint16_t>(~sum);
  for (size_t first = 0; first <= bytes.size(); first++) {
    for (size_t second = first; second <= bytes.size(); second += 13) {
      const uint16_t value = Checksum()
                                 .add(std::span(bytes).first(first))
                                 .add(std::span(bytes).subspan(first, second - first))
                                 .add(std::span(bytes).subspan(second))
                                 .value();
      REQUIRE(std::memcmp(&value, &expected, 2) == 0);
    }
  }
}

TEST_CASE("a segment is read as it was written") {
  FrameMaker maker;
  const Bytes frame = maker.tcp({.sequence = 0x01020304,
                                 .acknowledgement = 0xfffefdfc,
                                 .flags = tcp::kSyn,
                                 .window = 0x1234,
                                 .mss = 1460,
                                 .window_scale = 7},
                                "data");
  const auto packet = parse_tcp(frame);
  REQUIRE(packet);
  CHECK(packet->source_port == maker.guest_port);
  CHECK(packet->destination_port == maker.far_port);
  CHECK(packet->segment.sequence == 0x01020304);
  CHECK(packet->segment.acknowledgement == 0xfffefdfc);
  CHECK(packet->segment.flags == tcp::kSyn);
  CHECK(packet->segment.window == 0x1234);
  CHECK(packet->segment.mss == 1460);
  CHECK(packet->segment.window_scale == 7);
  CHECK(testing::text(packet->segment.payload[0]) == "data");
}

TEST_CASE("options count in a SYN only, and a scale has its limit") {
  FrameMaker maker;
  const auto later = parse_tcp(maker.tcp({.flags = tcp::kAck, .mss = 9, .window_scale = 1}, ""));
  REQUIRE(later);
  CHECK(!later->segment.mss);
  CHECK(!later->segment.window_scale);
  const auto huge = parse_tcp(maker.tcp({.flags = tcp::kSyn, .window_scale = 255}, ""));
  REQUIRE(huge);
  CHECK(huge->segment.window_scale == 14);
}

TEST_CASE("TCP options that do not fit together") {
  FrameMaker maker;
  for (const Bytes& options : {testing::bytes({2}), testing::bytes({2, 0, 0, 0}),
                               testing::bytes({2, 1, 0, 0}), testing::bytes({1, 1, 1, 2}),
                               testing::bytes({2, 5, 1, 1}), testing::bytes({254, 255, 1, 1})}) {
    maker.options = options;
    CHECK(reason(parse_tcp(maker.tcp({.flags = tcp::kSyn}, ""))) == Drop::kTcpHeader);
  }
  // Behind the end there may be anything; and what is unknown is skipped.
  maker.options = testing::bytes({0, 2, 0, 9});
  CHECK(parse_tcp(maker.tcp({.flags = tcp::kSyn}, "")));
  maker.options = testing::bytes({200, 4, 9, 9, 2, 4, 4, 0});
  CHECK(parse_tcp(maker.tcp({.flags = tcp::kSyn}, ""))->segment.mss == 1024);
}

TEST_CASE("B23: IP headers that are not plain") {
  struct Row {
    const char* what;
    std::function<void(wire::Ipv4&)> change;
    Drop expected;
  };
  const Row rows[] = {
      {"plain", [](wire::Ipv4&) {}, Drop::kCount},
      {"version 6", [](wire::Ipv4& ip) { ip.version_and_length = 0x65; }, Drop::kIpHeader},
      {"version 0", [](wire::Ipv4& ip) { ip.version_and_length = 0x05; }, Drop::kIpHeader},
      {"IHL 4", [](wire::Ipv4& ip) { ip.version_and_length = 0x44; }, Drop::kIpHeader},
      {"IHL 0", [](wire::Ipv4& ip) { ip.version_and_length = 0x40; }, Drop::kIpHeader},
      {"options (LSRR, SSRR, ...)", [](wire::Ipv4& ip) { ip.version_and_length = 0x47; },
       Drop::kIpHeader},
      {"IHL 15", [](wire::Ipv4& ip) { ip.version_and_length = 0x4f; }, Drop::kIpHeader},
      {"first fragment", [](wire::Ipv4& ip) { ip.fragment = 0x2000; }, Drop::kIpFragment},
      {"last fragment", [](wire::Ipv4& ip) { ip.fragment = 1; }, Drop::kIpFragment},
      {"fragment beyond 65535", [](wire::Ipv4& ip) { ip.fragment = 0x1fff; }, Drop::kIpFragment},
      {"fragment in spite of DF", [](wire::Ipv4& ip) { ip.fragment = 0x6000; }, Drop::kIpFragment},
      {"reserved bit", [](wire::Ipv4& ip) { ip.fragment = 0x8000; }, Drop::kIpFragment},
      {"not fragmented, DF", [](wire::Ipv4& ip) { ip.fragment = 0x4000; }, Drop::kCount},
      {"TTL 0", [](wire::Ipv4& ip) { ip.time_to_live = 0; }, Drop::kIpHeader},
      {"longer than the frame",
       [](wire::Ipv4& ip) { ip.total_length = static_cast<uint16_t>(ip.total_length + 1); },
       Drop::kIpLength},
      {"shorter than the frame",
       [](wire::Ipv4& ip) { ip.total_length = static_cast<uint16_t>(ip.total_length - 1); },
       Drop::kIpLength},
      {"shorter than its header", [](wire::Ipv4& ip) { ip.total_length = 19; }, Drop::kIpLength},
      {"length 0", [](wire::Ipv4& ip) { ip.total_length = 0; }, Drop::kIpLength},
      {"length 65535", [](wire::Ipv4& ip) { ip.total_length = 65535; }, Drop::kIpLength},
  };
  for (const Row& row : rows) {
    INFO(row.what);
    FrameMaker maker;
    maker.change_ip = row.change;
    CHECK(reason(parse_tcp(maker.tcp({.flags = tcp::kAck}, std::string(100, 'x')))) ==
          row.expected);
  }
}

TEST_CASE("B23: a wrong checksum, of the header and of what is in it") {
  FrameMaker maker;
  for (size_t i = 14; i < 34; i++) {
    Bytes frame = maker.tcp({.flags = tcp::kAck}, std::string(100, 'x'));
    frame[i] ^= std::byte{0x10};
    CHECK(!parse_tcp(frame));
  }
  for (size_t i = 34; i < 34 + 20 + 100; i++) {
    Bytes frame = maker.tcp({.flags = tcp::kAck}, std::string(100, 'x'));
    frame[i] ^= std::byte{0x01};
    CHECK(!parse_tcp(frame));
    Bytes datagram = maker.udp("x" + std::string(111, 'y'));
    datagram[i] ^= std::byte{0x01};
    CHECK(!parse_udp(datagram));
  }
}

TEST_CASE("Ethernet's padding is not the packet's") {
  FrameMaker maker;
  Bytes frame = maker.tcp({.flags = tcp::kAck}, "");
  REQUIRE(frame.size() == 54);
  frame.resize(60, std::byte{0xff});
  const auto packet = parse_tcp(frame);
  REQUIRE(packet);
  CHECK(packet->segment.payload_size() == 0);
  frame.resize(61);
  CHECK(reason(parse_tcp(frame)) == Drop::kIpLength);
}

TEST_CASE("B22: frames of any length up to a header are too short for what they say") {
  FrameMaker maker;
  const Bytes whole = maker.tcp({.flags = tcp::kSyn, .mss = 1460}, "data");
  for (size_t size = 0; size < whole.size(); size++) {
    const Bytes frame(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(size));
    CHECK(!parse_tcp(frame));
  }
}

TEST_CASE("B22: beyond the MTU there are only segments that are to be cut") {
  FrameMaker maker;
  CHECK(parse_tcp(maker.tcp({.flags = tcp::kAck}, std::string(1460, 'x'))));
  const Bytes large = maker.tcp({.flags = tcp::kAck}, std::string(1461, 'x'));
  CHECK(reason(parse_tcp(large)) == Drop::kFrameLength);
  const FrameOffload offload{.needs_checksum = true,
                             .checksum_start = 34,
                             .checksum_offset = 16,
                             .segmentation = FrameOffload::Segmentation::kTcp4,
                             .header_size = 54,
                             .segment_size = 1460};
  CHECK(parse_tcp(large, offload));
  CHECK(parse_tcp(maker.tcp({.flags = tcp::kAck}, std::string(65535 - 40, 'x')), offload));
  Bytes jumbo = maker.tcp({.flags = tcp::kAck}, std::string(65535 - 40, 'x'));
  jumbo.push_back(std::byte{0});
  CHECK(reason(parse_tcp(jumbo, offload)) == Drop::kFrameLength);
}

TEST_CASE("B27: a checksum that the frame leaves open is this packet's, or the frame is dropped") {
  FrameMaker maker;
  maker.bad_checksum = true;
  const Bytes frame = maker.tcp({.flags = tcp::kAck}, "data");
  CHECK(reason(parse_tcp(frame)) == Drop::kTcpChecksum);
  CHECK(parse_tcp(frame, {.checked = true}));
  FrameOffload offload{.needs_checksum = true, .checksum_start = 34, .checksum_offset = 16};
  CHECK(parse_tcp(frame, offload));
  for (uint16_t start : std::initializer_list<uint16_t>{0, 14, 33, 35, 54, 65535}) {
    offload.checksum_start = start;
    CHECK(reason(parse_tcp(frame, offload)) == Drop::kOffload);
  }
  offload.checksum_start = 34;
  for (uint16_t offset : std::initializer_list<uint16_t>{0, 6, 15, 17, 65535}) {
    offload.checksum_offset = offset;
    CHECK(reason(parse_tcp(frame, offload)) == Drop::kOffload);
  }
  const Bytes datagram = maker.udp("data");
  CHECK(reason(parse_udp(datagram)) == Drop::kUdpChecksum);
  CHECK(parse_udp(datagram, {.needs_checksum = true, .checksum_start = 34, .checksum_offset = 6}));
  CHECK(reason(parse_udp(datagram,
                         {.needs_checksum = true, .checksum_start = 34, .checksum_offset = 16})) ==
        Drop::kOffload);
}

TEST_CASE("B27: segmentation that does not fit the packet") {
  using Segmentation = FrameOffload::Segmentation;
  FrameMaker maker;
  const Bytes frame = maker.tcp({.flags = tcp::kAck}, "data");
  const FrameOffload right{.needs_checksum = true,
                           .checksum_start = 34,
                           .checksum_offset = 16,
                           .segmentation = Segmentation::kTcp4,
                           .header_size = 54,
                           .segment_size = 1460};
  CHECK(parse_tcp(frame, right));
  FrameOffload wrong = right;
  wrong.segmentation = Segmentation::kTcp6;
  CHECK(reason(parse_tcp(frame, wrong)) == Drop::kOffload);
  wrong = right;
  wrong.segment_size = 0;
  CHECK(reason(parse_tcp(frame, wrong)) == Drop::kOffload);
  wrong = right;
  wrong.needs_checksum = false;
  CHECK(reason(parse_tcp(frame, wrong)) == Drop::kOffload);
  CHECK(reason(parse_udp(maker.udp("data"), right)) == Drop::kOffload);
  // Where the device says that the headers end is not asked: the headers say so themselves.
  wrong = right;
  wrong.header_size = 14;
  CHECK(testing::text(parse_tcp(frame, wrong)->segment.payload[0]) == "data");
}

TEST_CASE("TCP and UDP headers that lie about their lengths") {
  FrameMaker maker;
  for (uint8_t words : std::initializer_list<uint8_t>{0, 1, 4, 6, 15}) {
    maker.change_tcp = [words](wire::Tcp& tcp) {
      tcp.data_offset = static_cast<uint8_t>(words << 4);
    };
    CHECK(reason(parse_tcp(maker.tcp({.flags = tcp::kAck}, ""))) == Drop::kTcpHeader);
  }
  for (uint16_t length : std::initializer_list<uint16_t>{0, 7, 8, 11, 13, 65535}) {
    maker.change_udp = [length](wire::Udp& udp) { udp.length = length; };
    CHECK(reason(parse_udp(maker.udp("data"))) == Drop::kUdpHeader);
  }
  FrameMaker zero;
  zero.far_port = 0;
  CHECK(reason(parse_tcp(zero.tcp({.flags = tcp::kSyn}, ""))) == Drop::kTcpHeader);
  zero.far_port = 80;
  zero.guest_port = 0;
  CHECK(reason(parse_tcp(zero.tcp({.flags = tcp::kSyn}, ""))) == Drop::kTcpHeader);
}

TEST_CASE("UDP without a checksum") {
  FrameMaker maker;
  maker.no_udp_checksum = true;
  CHECK(parse_udp(maker.udp("data")));
}

TEST_CASE("ARP of other kinds") {
  FrameMaker maker;
  const auto frame = [&](auto change) {
    maker.change_arp = change;
    const Bytes bytes = maker.arp(wire::kArpRequest, kGatewayAddress);
    return reason(parse_arp(std::span(bytes).subspan(14)));
  };
  CHECK(frame([](wire::Arp&) {}) == Drop::kCount);
  CHECK(frame([](wire::Arp& arp) { arp.hardware = 6; }) == Drop::kArpMalformed);
  CHECK(frame([](wire::Arp& arp) { arp.protocol = 0x86dd; }) == Drop::kArpMalformed);
  CHECK(frame([](wire::Arp& arp) { arp.hardware_size = 8; }) == Drop::kArpMalformed);
  CHECK(frame([](wire::Arp& arp) { arp.protocol_size = 16; }) == Drop::kArpMalformed);
  const Bytes bytes = maker.arp(wire::kArpRequest, kGatewayAddress);
  CHECK(reason(parse_arp(std::span(bytes).subspan(14, 27))) == Drop::kArpMalformed);
}

TEST_CASE("every reason for a drop has a name of its own") {
  for (size_t i = 0; i < kDropReasons; i++) {
    CHECK(!drop_name(static_cast<Drop>(i)).empty());
    for (size_t j = 0; j < i; j++)
      CHECK(drop_name(static_cast<Drop>(i)) != drop_name(static_cast<Drop>(j)));
  }
}

}  // namespace
}  // namespace hutch::net
