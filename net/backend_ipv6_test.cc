// IPv6 where it is on: what the backend lets through, answers and drops. Off: backend_test.cc.
#include <doctest/doctest.h>

#include "net/backend.h"
#include "tests/net/backend_bench.h"

namespace hutch::net {
namespace {

using testing::BackendBench;
using testing::Bytes;
using testing::FrameMaker;
using testing::read_at;
using testing::text;

constexpr size_t kTransport = 14 + 40;
const MacAddress kSolicited = {0x33, 0x33, 0xff, 0, 0, 2};

IpAddress address(const char* text_form) {
  return *IpAddress::parse(text_form);
}

void check_dropped(const Bytes& frame, Drop reason) {
  BackendBench bench({}, true);
  bench.frame(frame);
  CHECK(bench.dropped(reason) == 1);
  CHECK(bench.all_drops() == 1);
  CHECK(bench.device.frames.empty());
  CHECK(bench.opener.asked.empty());
}

// The only answer, whose addresses and transport checksum are right.
Bytes answer(BackendBench& bench, const IpAddress& source, const IpAddress& destination) {
  REQUIRE(bench.device.frames.size() == 1);
  const Bytes frame = bench.take().bytes;
  const auto header = read_at<wire::Ipv6>(frame, 14);
  CHECK(read_at<wire::Ethernet>(frame, 0).type == wire::kTypeIpv6);
  CHECK(read_at<wire::Ethernet>(frame, 0).destination == kGuestMac);
  CHECK((uint32_t{header.version_class_flow} >> 28) == 6);
  CHECK(header.payload_length == frame.size() - kTransport);
  CHECK(IpAddress::v6(header.source) == source);
  CHECK(IpAddress::v6(header.destination) == destination);
  const auto payload = std::span(frame).subspan(kTransport);
  const uint16_t pseudo =
      pseudo_header_sum(source, destination, header.next_header, payload.size());
  CHECK(Checksum().add_object(pseudo).add(payload).value() == 0);
  return frame;
}

std::string target(const IpAddress& wanted) {
  return text(std::as_bytes(wanted.bytes()));
}

TEST_CASE("where the gateway is: by multicast, from either of the guest's addresses") {
  for (const IpAddress& source : {kGuestAddress6, address("fe80::48:55ff:fe54:4301")}) {
    for (const MacAddress& mac : {kSolicited, kGatewayMac}) {
      BackendBench bench({}, true);
      FrameMaker maker = FrameMaker::version6();
      maker.source = source;
      maker.destination_mac = mac;
      maker.destination = mac == kGatewayMac ? kGatewayAddress6 : address("ff02::1:ff00:2");
      bench.frame(maker.icmp(135, 0, target(kGatewayAddress6) + std::string("\1\1\2HUTC\1", 8)));
      const Bytes frame = answer(bench, kGatewayAddress6, source);
      CHECK(read_at<wire::Ipv6>(frame, 14).hop_limit == 255);
      CHECK(read_at<wire::Icmp>(frame, kTransport).type == 136);
      CHECK(read_at<wire::Icmp>(frame, kTransport).rest == 0xe0000000);
      CHECK(text(std::span(frame).subspan(kTransport + 8, 16)) == target(kGatewayAddress6));
      CHECK(read_at<MacAddress>(frame, kTransport + 26) == kGatewayMac);
      CHECK(bench.all_drops() == 0);
    }
  }
}

TEST_CASE("B18: nobody else is anywhere, and no other message of neighbours means anything") {
  FrameMaker maker = FrameMaker::version6();
  maker.destination_mac = kSolicited;
  maker.destination = address("ff02::1:ff00:2");
  // Another's address, one's own (duplicate address detection), too short.
  for (const IpAddress& other : {kGuestAddress6, address("2606:2800::1"), address("fe80::2")})
    check_dropped(maker.icmp(135, 0, target(other)), Drop::kIcmpKind);
  check_dropped(maker.icmp(135, 0, "short"), Drop::kIcmpKind);
  check_dropped(maker.icmp(135, 1, target(kGatewayAddress6)), Drop::kIcmpKind);
  // Router solicitation and advertisement, neighbour advertisement, redirect, MLD, its second
  // version.
  for (uint8_t type : {uint8_t{133}, uint8_t{134}, uint8_t{136}, uint8_t{137}, uint8_t{131},
                       uint8_t{143}, uint8_t{1}, uint8_t{2}, uint8_t{3}, uint8_t{4}})
    check_dropped(maker.icmp(type, 0, target(kGatewayAddress6)), Drop::kIcmpKind);
  FrameMaker far = maker;
  far.change_ip6 = [](wire::Ipv6& header) { header.hop_limit = 254; };
  check_dropped(far.icmp(135, 0, target(kGatewayAddress6)), Drop::kIcmpKind);
  FrameMaker unspecified = maker;
  unspecified.source = address("::");
  check_dropped(unspecified.icmp(135, 0, target(kGatewayAddress6)), Drop::kIpSource);
  FrameMaker wrong = maker;
  wrong.bad_checksum = true;
  check_dropped(wrong.icmp(135, 0, target(kGatewayAddress6)), Drop::kIcmpHeader);
}

TEST_CASE("the gateway answers pings of version 6, and nobody else does") {
  BackendBench bench({}, true);
  FrameMaker maker = FrameMaker::version6();
  maker.destination = kGatewayAddress6;
  bench.frame(maker.icmp(128, 0, "payload"));
  const Bytes frame = answer(bench, kGatewayAddress6, kGuestAddress6);
  CHECK(read_at<wire::Icmp>(frame, kTransport).type == 129);
  CHECK(read_at<wire::Icmp>(frame, kTransport).rest == 0x00010002);
  CHECK(text(std::span(frame).subspan(kTransport + 8)) == "payload");
  for (const char* other : {"2606:2800::1", "ff02::1", "::1", "fd48:7574:6368::3"}) {
    maker.destination = address(other);
    check_dropped(maker.icmp(128, 0, "payload"), Drop::kIcmpKind);
  }
}

TEST_CASE("B18, B19: addresses and headers that there are not") {
  FrameMaker maker = FrameMaker::version6();
  for (const char* source : {"::", "::1", "fe80::1", "fd48:7574:6368::2", "2606:2800::1", "ff02::1",
                             "::ffff:10.0.2.15"}) {
    FrameMaker spoof = maker;
    spoof.source = address(source);
    check_dropped(spoof.tcp({.flags = tcp::kSyn}, ""), Drop::kIpSource);
    check_dropped(spoof.udp("x"), Drop::kIpSource);
  }
  for (const char* destination : {"::", "::1", "fe80::1", "ff02::1", "ff0e::1"}) {
    FrameMaker nowhere = maker;
    nowhere.destination = address(destination);
    check_dropped(nowhere.tcp({.flags = tcp::kSyn}, ""), Drop::kIpDestination);
  }
  for (const MacAddress& mac : {kBroadcastMac, kSolicited, MacAddress{2, 0, 0, 0, 0, 1}}) {
    FrameMaker other = maker;
    other.destination_mac = mac;
    check_dropped(other.tcp({.flags = tcp::kSyn}, ""), Drop::kDestinationMac);
  }
  // Extension headers, tunnels, all protocols but three; fragments have a reason of their own.
  for (unsigned protocol = 0; protocol < 256; protocol++) {
    if (protocol == 6 || protocol == 17 || protocol == 58) continue;
    check_dropped(maker.ip(static_cast<uint8_t>(protocol), Bytes(40)),
                  protocol == 44 ? Drop::kIpFragment : Drop::kIpProtocol);
  }
  for (auto [change, reason] :
       std::initializer_list<std::pair<std::function<void(wire::Ipv6&)>, Drop>>{
           {[](wire::Ipv6& header) { header.version_class_flow = uint32_t{4} << 28; },
            Drop::kIpHeader},
           {[](wire::Ipv6& header) { header.hop_limit = 0; }, Drop::kIpHeader},
           {[](wire::Ipv6& header) { header.payload_length = 0; }, Drop::kIpLength},
           {[](wire::Ipv6& header) { header.payload_length = 19; }, Drop::kIpLength},
           {[](wire::Ipv6& header) { header.payload_length = 65535; }, Drop::kIpLength}}) {
    FrameMaker wrong = maker;
    wrong.change_ip6 = change;
    check_dropped(wrong.tcp({.flags = tcp::kSyn}, ""), reason);
  }
  check_dropped(maker.ethernet(Bytes(39)), Drop::kIpHeader);
}

TEST_CASE("DNS is answered over version 6, too; all other UDP stops here") {
  BackendBench bench({}, true);
  FrameMaker maker = FrameMaker::version6();
  maker.far_port = 53;
  bench.frame(maker.udp("query"));
  Bytes frame = answer(bench, maker.destination, kGuestAddress6);
  CHECK(read_at<wire::Udp>(frame, kTransport).source_port == 53);
  CHECK(text(std::span(frame).subspan(kTransport + 8)) == "re: query");
  maker.far_port = 443;
  const Bytes sent = maker.udp("QUIC");
  bench.frame(sent);
  frame = answer(bench, kGatewayAddress6, kGuestAddress6);
  CHECK(read_at<wire::Icmp>(frame, kTransport).type == 1);
  CHECK(read_at<wire::Icmp>(frame, kTransport).code == 1);
  CHECK(text(std::span(frame).subspan(kTransport + 8)) == text(std::span(sent).subspan(14, 48)));
  CHECK(bench.dropped(Drop::kUdpUnreachable) == 1);
  FrameMaker none = maker;
  none.no_udp_checksum = true;
  check_dropped(none.udp("x"), Drop::kUdpChecksum);
}

TEST_CASE("connections of version 6 are asked for, and refused where nobody allows them") {
  BackendBench bench({}, true);
  FrameMaker maker = FrameMaker::version6();
  bench.literals.allowed = maker.destination;
  bench.frame(maker.tcp({.sequence = 100, .flags = tcp::kSyn, .window = 1000, .mss = 1440}, ""));
  REQUIRE(bench.opener.asked.size() == 1);
  CHECK(bench.literals.asked == 1);
  CHECK(bench.opener.asked.front()->target.address == maker.destination);
  CHECK(bench.opener.asked.front()->target.port == 443);
  bench.opener.asked.front()->callbacks.connected();
  Bytes frame = answer(bench, maker.destination, kGuestAddress6);
  const auto header = read_at<wire::Tcp>(frame, kTransport);
  CHECK(header.flags == (tcp::kSyn | tcp::kAck));
  CHECK(header.acknowledgement == 101);
  CHECK(read_at<be16>(frame, kTransport + 22) == 1440);
  for (const char* other : {"2606:2800::2", "fd48:7574:6368::2", "fd48:7574:6368:1::c612:2"}) {
    maker.destination = address(other);
    bench.frame(maker.tcp({.sequence = 1, .flags = tcp::kSyn}, ""));
    frame = answer(bench, maker.destination, kGuestAddress6);
    CHECK(read_at<wire::Tcp>(frame, kTransport).flags == (tcp::kRst | tcp::kAck));
  }
  CHECK(bench.opener.asked.size() == 1);
}

}  // namespace
}  // namespace hutch::net
