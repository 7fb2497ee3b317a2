// What the backend lets through, answers and drops, but for connections (backend_tcp_test.cc).
#include "net/backend.h"

#include <doctest/doctest.h>

#include "net/dhcp.h"
#include "tests/net/backend_bench.h"

namespace hutch::net {
namespace {

using testing::BackendBench;
using testing::Bytes;
using testing::FrameMaker;
using testing::read_at;
using testing::text;

// That a frame is dropped for this reason, and for no other, and not answered.
void check_dropped(const Bytes& frame, Drop reason, const FrameOffload& offload = {}) {
  BackendBench bench;
  bench.frame(frame, offload);
  CHECK(bench.dropped(reason) == 1);
  CHECK(bench.all_drops() == 1);
  CHECK(bench.device.frames.empty());
  CHECK(bench.opener.asked.empty());
}

// --- Frames ------------------------------------------------------------------------------------

TEST_CASE("B19: another's MAC or address is not the guest's") {
  FrameMaker maker;
  maker.source_mac[5] ^= 1;
  check_dropped(maker.tcp({.flags = tcp::kSyn}, ""), Drop::kSourceMac);
  check_dropped(maker.arp(wire::kArpRequest, kGatewayAddress), Drop::kSourceMac);
  maker.source_mac = kGatewayMac;
  check_dropped(maker.tcp({.flags = tcp::kSyn}, ""), Drop::kSourceMac);
  for (const IpAddress& source :
       {kGatewayAddress, IpAddress::v4(10, 0, 2, 16), IpAddress::v4(0), IpAddress::v4(127, 0, 0, 1),
        IpAddress::v4(93, 184, 216, 34), IpAddress::v4(0xffffffff), IpAddress::v4(10, 0, 2, 255)}) {
    FrameMaker spoof;
    spoof.source = source;
    check_dropped(spoof.tcp({.flags = tcp::kSyn}, ""), Drop::kIpSource);
    check_dropped(spoof.udp("x"), Drop::kIpSource);
    check_dropped(spoof.icmp(8, 0, "x"), Drop::kIpSource);
  }
}

TEST_CASE("frames to others than the gateway") {
  FrameMaker maker;
  for (const MacAddress& mac : {MacAddress{2, 0, 0, 0, 0, 1}, kGuestMac, MacAddress{},
                                MacAddress{0x01, 0x00, 0x5e, 0, 0, 1}}) {
    maker.destination_mac = mac;
    check_dropped(maker.tcp({.flags = tcp::kSyn}, ""), Drop::kDestinationMac);
  }
  maker.destination_mac = kBroadcastMac;
  check_dropped(maker.tcp({.flags = tcp::kSyn}, ""), Drop::kIpDestination);
}

TEST_CASE("B22: VLAN, QinQ, LLC, PPPoE and all other types but two") {
  FrameMaker maker;
  for (uint32_t type = 0; type <= 0xffff; type += type < 0x1000 ? 1 : 7) {
    if (type == wire::kTypeIpv4 || type == wire::kTypeArp || type == wire::kTypeIpv6) continue;
    maker.type = static_cast<uint16_t>(type);
    check_dropped(maker.tcp({.flags = tcp::kSyn}, ""), Drop::kEtherType);
  }
  for (uint16_t type : std::initializer_list<uint16_t>{0x8100, 0x88a8, 0x9100, 0x8863, 0x8864,
                                                       0x8847, 0x88cc, 0x0026}) {
    maker.type = type;
    check_dropped(maker.tcp({.flags = tcp::kSyn}, ""), Drop::kEtherType);
  }
}

TEST_CASE("B22: short frames and jumbo frames") {
  FrameMaker maker;
  for (size_t size = 0; size < 14; size++) check_dropped(Bytes(size), Drop::kFrameLength);
  check_dropped(maker.ethernet({}), Drop::kIpHeader);
  check_dropped(maker.tcp({.flags = tcp::kAck}, std::string(65495, 'x')), Drop::kFrameLength);
}

TEST_CASE("B18: nothing of IPv6, to whatever MAC") {
  FrameMaker maker;
  maker.type = wire::kTypeIpv6;
  for (const MacAddress& mac : {kGatewayMac, kBroadcastMac, MacAddress{0x33, 0x33, 0, 0, 0, 2}}) {
    maker.destination_mac = mac;
    Bytes packet(60);
    packet[0] = std::byte{0x60};
    check_dropped(maker.ethernet(packet), Drop::kIpv6);
  }
}

TEST_CASE("B23: fragments and options get nowhere") {
  for (auto [change, reason] :
       {std::pair{+[](wire::Ipv4& ip) { ip.fragment = 0x2000; }, Drop::kIpFragment},
        std::pair{+[](wire::Ipv4& ip) { ip.fragment = 0x00b9; }, Drop::kIpFragment},
        std::pair{+[](wire::Ipv4& ip) { ip.version_and_length = 0x46; }, Drop::kIpHeader},
        std::pair{+[](wire::Ipv4& ip) { ip.version_and_length = 0x43; }, Drop::kIpHeader},
        std::pair{+[](wire::Ipv4& ip) { ip.total_length = 30; }, Drop::kIpLength}}) {
    FrameMaker maker;
    maker.change_ip = change;
    check_dropped(maker.tcp({.flags = tcp::kSyn}, std::string(40, 'x')), reason);
    check_dropped(maker.udp(std::string(40, 'x')), reason);
  }
}

TEST_CASE("B25: no protocol but TCP, UDP and ICMP") {
  FrameMaker maker;
  for (int protocol = 0; protocol < 256; protocol++) {
    if (protocol == 1 || protocol == 6 || protocol == 17) continue;
    check_dropped(maker.ip(static_cast<uint8_t>(protocol), Bytes(40)), Drop::kIpProtocol);
  }
}

TEST_CASE("B16: where nobody can be") {
  FrameMaker maker;
  for (const IpAddress& destination :
       {IpAddress::v4(0), IpAddress::v4(0, 1, 2, 3), IpAddress::v4(224, 0, 0, 1),
        IpAddress::v4(239, 255, 255, 255), IpAddress::v4(240, 0, 0, 1), IpAddress::v4(0xffffffff),
        IpAddress::v4(10, 0, 2, 255), kGuestAddress}) {
    maker.destination = destination;
    check_dropped(maker.tcp({.flags = tcp::kSyn}, ""), Drop::kIpDestination);
    check_dropped(maker.udp("x"), Drop::kIpDestination);
    check_dropped(maker.icmp(8, 0, ""), Drop::kIpDestination);
  }
}

// --- ARP ---------------------------------------------------------------------------------------

TEST_CASE("the gateway answers for its own address") {
  BackendBench bench;
  FrameMaker maker;
  maker.destination_mac = kBroadcastMac;
  bench.frame(maker.arp(wire::kArpRequest, kGatewayAddress));
  REQUIRE(bench.device.frames.size() == 1);
  CHECK(bench.device.flushes == 1);
  const Bytes frame = bench.take().bytes;
  const auto ethernet = read_at<wire::Ethernet>(frame, 0);
  const auto arp = read_at<wire::Arp>(frame, 14);
  CHECK(ethernet.destination == kGuestMac);
  CHECK(ethernet.source == kGatewayMac);
  CHECK(arp.operation == wire::kArpReply);
  CHECK(arp.sender_mac == kGatewayMac);
  CHECK(arp.sender == kGatewayAddress.v4_value());
  CHECK(arp.target_mac == kGuestMac);
  CHECK(arp.target == kGuestAddress.v4_value());
  CHECK(bench.all_drops() == 0);
}

TEST_CASE("B20: nobody else has an address, and nobody becomes the gateway") {
  FrameMaker maker;
  maker.destination_mac = kBroadcastMac;
  for (const IpAddress& target : {kGuestAddress, IpAddress::v4(10, 0, 2, 3),
                                  IpAddress::v4(10, 0, 2, 16), IpAddress::v4(93, 184, 216, 34)})
    check_dropped(maker.arp(wire::kArpRequest, target), Drop::kArpUnasked);
  check_dropped(maker.arp(wire::kArpReply, kGatewayAddress), Drop::kArpUnasked);
  maker.change_arp = [](wire::Arp& arp) { arp.sender = kGatewayAddress.v4_value(); };
  check_dropped(maker.arp(wire::kArpReply, kGuestAddress), Drop::kArpSpoof);
  check_dropped(maker.arp(wire::kArpRequest, kGatewayAddress), Drop::kArpSpoof);
  maker.change_arp = [](wire::Arp& arp) { arp.sender_mac = kGatewayMac; };
  check_dropped(maker.arp(wire::kArpRequest, kGatewayAddress), Drop::kArpSpoof);
}

TEST_CASE("B20: a storm of replies changes nothing") {
  BackendBench bench;
  FrameMaker maker;
  for (int i = 0; i < 10'000; i++) bench.frame(maker.arp(wire::kArpReply, kGatewayAddress));
  CHECK(bench.device.frames.empty());
  CHECK(bench.dropped(Drop::kArpUnasked) == 10'000);
}

// --- DHCP --------------------------------------------------------------------------------------

Bytes dhcp(uint8_t type, std::initializer_list<int> options = {},
           const MacAddress& mac = kGuestMac) {
  Bytes message(240);
  message[0] = std::byte{1};
  message[1] = std::byte{1};
  message[2] = std::byte{6};
  const be32 transaction = 0xabcd1234;
  std::memcpy(message.data() + 4, &transaction, 4);
  std::memcpy(message.data() + 28, mac.data(), mac.size());
  const be32 cookie = 0x63825363;
  std::memcpy(message.data() + 236, &cookie, 4);
  for (int value : {53, 1, int{type}}) message.push_back(static_cast<std::byte>(value));
  for (int value : options) message.push_back(static_cast<std::byte>(value));
  message.push_back(std::byte{255});
  return message;
}

FrameMaker dhcp_client() {
  FrameMaker maker;
  maker.source = IpAddress::v4(0);
  maker.destination = IpAddress::v4(0xffffffff);
  maker.destination_mac = kBroadcastMac;
  maker.guest_port = 68;
  maker.far_port = 67;
  return maker;
}

// The value of an option in a frame with a DHCP message; empty: it is not there.
Bytes option(const Bytes& frame, int code) {
  size_t at = 14 + 20 + 8 + 240;
  while (at + 1 < frame.size() && frame[at] != std::byte{255}) {
    const auto size = std::to_integer<size_t>(frame[at + 1]);
    if (frame[at] == static_cast<std::byte>(code))
      return {frame.begin() + static_cast<ptrdiff_t>(at + 2),
              frame.begin() + static_cast<ptrdiff_t>(at + 2 + size)};
    at += 2 + size;
  }
  return {};
}

TEST_CASE("DHCP: DISCOVER gets an offer with all that the guest needs") {
  BackendBench bench;
  bench.frame(dhcp_client().udp(text(dhcp(1))));
  REQUIRE(bench.device.frames.size() == 1);
  const Bytes frame = bench.take().bytes;
  CHECK(read_at<wire::Ethernet>(frame, 0).destination == kGuestMac);
  CHECK(read_at<wire::Ipv4>(frame, 14).destination == kGuestAddress.v4_value());
  CHECK(read_at<wire::Udp>(frame, 34).source_port == 67);
  CHECK(read_at<wire::Udp>(frame, 34).destination_port == 68);
  CHECK(read_at<be32>(frame, 42 + 4) == 0xabcd1234u);
  CHECK(read_at<be32>(frame, 42 + 16) == kGuestAddress.v4_value());
  CHECK(option(frame, 53) == testing::bytes({2}));
  CHECK(option(frame, 1) == testing::bytes({255, 255, 255, 0}));
  CHECK(option(frame, 3) == testing::bytes({10, 0, 2, 2}));
  CHECK(option(frame, 6) == testing::bytes({10, 0, 2, 2}));
  CHECK(option(frame, 54) == testing::bytes({10, 0, 2, 2}));
  CHECK(option(frame, 26) == testing::bytes({1500 >> 8, 1500 & 255}));
  CHECK(option(frame, 51).size() == 4);
  // What was written is right: as the other way round it must be.
  const uint16_t pseudo = pseudo_header_sum(kGatewayAddress, kGuestAddress, 17, frame.size() - 34);
  CHECK(Checksum().add_object(pseudo).add(std::span(frame).subspan(34)).value() == 0);
  CHECK(Checksum().add(std::span(frame).subspan(14, 20)).value() == 0);
}

TEST_CASE("DHCP: REQUEST, INFORM, a wrong address, and broadcast on demand") {
  BackendBench bench;
  bench.frame(dhcp_client().udp(text(dhcp(3, {50, 4, 10, 0, 2, 15, 54, 4, 10, 0, 2, 2}))));
  CHECK(option(bench.take().bytes, 53) == testing::bytes({5}));
  bench.frame(dhcp_client().udp(text(dhcp(3, {50, 4, 192, 168, 0, 9}))));
  const Bytes refusal = bench.take().bytes;
  CHECK(option(refusal, 53) == testing::bytes({6}));
  CHECK(option(refusal, 51).empty());
  CHECK(read_at<wire::Ipv4>(refusal, 14).destination == 0xffffffffu);
  CHECK(read_at<be32>(refusal, 42 + 16) == 0u);
  // Another server's offer was taken.
  bench.frame(dhcp_client().udp(text(dhcp(3, {50, 4, 10, 0, 2, 15, 54, 4, 9, 9, 9, 9}))));
  CHECK(bench.device.frames.empty());
  FrameMaker renewing = dhcp_client();
  renewing.source = kGuestAddress;
  renewing.destination = kGatewayAddress;
  renewing.destination_mac = kGatewayMac;
  bench.frame(renewing.udp(text(dhcp(8))));
  const Bytes information = bench.take().bytes;
  CHECK(option(information, 53) == testing::bytes({5}));
  CHECK(option(information, 51).empty());
  CHECK(read_at<be32>(information, 42 + 16) == 0u);
  Bytes message = dhcp(1);
  message[10] = std::byte{0x80};
  bench.frame(dhcp_client().udp(text(message)));
  CHECK(read_at<wire::Ipv4>(bench.take().bytes, 14).destination == 0xffffffffu);
}

TEST_CASE("B21: rogue servers, other clients and nonsense are not answered") {
  check_dropped(dhcp_client().udp(text(dhcp(1, {}, MacAddress{2, 0, 0, 0, 0, 9}))), Drop::kDhcp);
  check_dropped(dhcp_client().udp(text(dhcp(2))), Drop::kDhcp);
  check_dropped(dhcp_client().udp(text(dhcp(5))), Drop::kDhcp);
  check_dropped(dhcp_client().udp(text(dhcp(4))), Drop::kDhcp);
  check_dropped(dhcp_client().udp(text(dhcp(7))), Drop::kDhcp);
  check_dropped(dhcp_client().udp(text(dhcp(0))), Drop::kDhcp);
  Bytes reply = dhcp(1);
  reply[0] = std::byte{2};
  check_dropped(dhcp_client().udp(text(reply)), Drop::kDhcp);
  check_dropped(dhcp_client().udp(text(dhcp(1, {50, 200, 1}))), Drop::kDhcp);
  check_dropped(dhcp_client().udp("short"), Drop::kDhcp);
  // A server's answer.
  FrameMaker server = dhcp_client();
  std::swap(server.guest_port, server.far_port);
  check_dropped(server.udp(text(dhcp(2))), Drop::kIpSource);
}

TEST_CASE("B21: starvation is not possible: the same lease for ever") {
  BackendBench bench;
  for (int i = 0; i < 5000; i++) {
    bench.frame(dhcp_client().udp(text(dhcp(1))));
    CHECK(read_at<be32>(bench.take().bytes, 42 + 16) == kGuestAddress.v4_value());
  }
}

TEST_CASE("whoever has no address yet may only ask for one") {
  FrameMaker maker = dhcp_client();
  maker.far_port = 53;
  check_dropped(maker.udp("query"), Drop::kIpSource);
  maker = dhcp_client();
  maker.destination = kGatewayAddress;
  maker.destination_mac = kGatewayMac;
  BackendBench bench;
  bench.frame(maker.udp(text(dhcp(1))));
  CHECK(bench.dropped(Drop::kIpSource) == 1);
}

// --- DNS and other UDP -------------------------------------------------------------------------

TEST_CASE("B02: DNS is answered here, whoever is asked, in their name") {
  for (const IpAddress& server :
       {kGatewayAddress, IpAddress::v4(8, 8, 8, 8), IpAddress::v4(198, 18, 0, 1)}) {
    BackendBench bench;
    FrameMaker maker;
    maker.destination = server;
    maker.far_port = 53;
    bench.frame(maker.udp("query"));
    REQUIRE(bench.device.frames.size() == 1);
    const Bytes frame = bench.take().bytes;
    CHECK(read_at<wire::Ipv4>(frame, 14).source == server.v4_value());
    CHECK(read_at<wire::Udp>(frame, 34).source_port == 53);
    CHECK(read_at<wire::Udp>(frame, 34).destination_port == maker.guest_port);
    CHECK(text(std::span(frame).subspan(42)) == "re: query");
    CHECK(bench.opener.asked.empty());
  }
}

TEST_CASE("a query that has no answer gets none") {
  FrameMaker maker;
  maker.far_port = 53;
  check_dropped(maker.udp("no"), Drop::kDns);
}

TEST_CASE("B24: all other UDP stops here; the guest is told, not too often") {
  BackendBench bench;
  FrameMaker maker;
  for (uint32_t port = 1; port <= 65535; port++) {
    if (port == 53) continue;
    maker.far_port = static_cast<uint16_t>(port);
    bench.frame(maker.udp("GET / QUIC"));
  }
  CHECK(bench.dropped(Drop::kUdpUnreachable) == 65534);
  CHECK(bench.device.frames.size() == Icmp::kBurst);
  const Bytes frame = bench.take().bytes;
  CHECK(read_at<wire::Ipv4>(frame, 14).source == kGatewayAddress.v4_value());
  CHECK(read_at<wire::Icmp>(frame, 34).type == 3);
  CHECK(read_at<wire::Icmp>(frame, 34).code == 13);
  CHECK(frame.size() == 14 + 20 + 8 + 28);
  CHECK(read_at<wire::Ipv4>(frame, 42).destination == maker.destination.v4_value());
  CHECK(Checksum().add(std::span(frame).subspan(34)).value() == 0);
  CHECK(bench.opener.asked.empty());
  CHECK(bench.dns.queries == 0);
}

// --- ICMP --------------------------------------------------------------------------------------

TEST_CASE("the gateway answers pings") {
  BackendBench bench;
  FrameMaker maker;
  maker.destination = kGatewayAddress;
  bench.frame(maker.icmp(8, 0, "payload"));
  REQUIRE(bench.device.frames.size() == 1);
  const Bytes frame = bench.take().bytes;
  CHECK(read_at<wire::Ipv4>(frame, 14).source == kGatewayAddress.v4_value());
  CHECK(read_at<wire::Icmp>(frame, 34).type == 0);
  CHECK(read_at<wire::Icmp>(frame, 34).rest == 0x00010002u);
  CHECK(text(std::span(frame).subspan(42)) == "payload");
  CHECK(Checksum().add(std::span(frame).subspan(34)).value() == 0);
}

TEST_CASE("B25: nobody else does, and no other message means anything") {
  FrameMaker maker;
  check_dropped(maker.icmp(8, 0, "to outside"), Drop::kIcmpKind);
  maker.destination = kGatewayAddress;
  for (int kind = 0; kind < 256; kind++) {
    if (kind != 8) check_dropped(maker.icmp(static_cast<uint8_t>(kind), 0, "x"), Drop::kIcmpKind);
  }
  check_dropped(maker.icmp(8, 1, "x"), Drop::kIcmpKind);
  maker.bad_checksum = true;
  check_dropped(maker.icmp(8, 0, "x"), Drop::kIcmpHeader);
}

TEST_CASE("a flood of pings is answered at a limited rate") {
  BackendBench bench;
  FrameMaker maker;
  maker.destination = kGatewayAddress;
  for (int second = 0; second < 3; second++) {
    for (int i = 0; i < 1000; i++) bench.frame(maker.icmp(8, 0, "x"));
    bench.now += 1'000'000'000;
  }
  CHECK(bench.device.frames.size() <= 3 * Icmp::kBurst);
  CHECK(bench.dropped(Drop::kIcmpRate) == 3000 - bench.device.frames.size());
}

TEST_CASE("answers for which the guest has no room are dropped and counted") {
  BackendBench bench;
  bench.device.room = 0;
  FrameMaker maker;
  bench.frame(maker.arp(wire::kArpRequest, kGatewayAddress));
  bench.frame(dhcp_client().udp(text(dhcp(1))));
  maker.far_port = 53;
  bench.frame(maker.udp("query"));
  maker.destination = kGatewayAddress;
  bench.frame(maker.icmp(8, 0, "x"));
  maker.far_port = 99;
  bench.frame(maker.tcp({.flags = tcp::kAck}, ""));
  CHECK(bench.dropped(Drop::kNoRoom) == 5);
}

}  // namespace
}  // namespace hutch::net
