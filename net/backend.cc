#include "net/backend.h"

#include "base/sys.h"
#include "net/dhcp.h"

namespace hutch::net {
namespace {

constexpr uint16_t kDnsPort = 53;
// Of either version.
constexpr size_t kMaxDatagram = kMtu - sizeof(wire::Ipv6) - sizeof(wire::Udp);
constexpr IpAddress kUnspecified = IpAddress::v4(0);
constexpr IpAddress kBroadcast = IpAddress::v4(0xffffffff);

// Whether one other host can have this address.
bool is_unicast(const IpAddress& address) {
  const uint32_t value = address.v4_value();
  const uint32_t host_bits = ~kNetmask.v4_value();
  const bool is_link_broadcast = value == (kGuestAddress.v4_value() | host_bits);
  return value >> 24 != 0 && value >> 28 < 0xe && !is_link_broadcast && address != kGuestAddress;
}

bool is_link_local(const IpAddress& address) {
  return address.bytes()[0] == 0xfe && (address.bytes()[1] & 0xc0) == 0x80;
}

// The same of version 6: what can be somewhere behind the gateway, or is the gateway.
bool is_unicast6(const IpAddress& address) {
  constexpr IpAddress kNone = IpAddress::v6({});
  constexpr IpAddress kLoopback = IpAddress::v6({0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1});
  return address.bytes()[0] != 0xff && !is_link_local(address) && address != kNone &&
         address != kLoopback && address != kGuestAddress6;
}

// RFC 2464 section 7.
bool is_multicast6(const MacAddress& mac) {
  return mac[0] == 0x33 && mac[1] == 0x33;
}

// Calls of the result: use(what parser finds in the packet), or its reason is counted.
auto with_reason(Counters& counters, const IpPacket& packet, const FrameOffload& offload) {
  return [&](auto parser, auto use) {
    const auto parsed = parser(packet, offload);
    if (parsed) {
      use(*parsed);
    } else {
      counters.drop(parsed.error());
    }
  };
}

}  // namespace

Backend::Backend(Loop& loop, FrameSender& device, const Deciders& deciders, TcpOptions options,
                 bool ipv6)
    : clock_(options.clock ? options.clock : monotonic_ns),
      ipv6_(ipv6),
      link_(device, counters_),
      dns_(deciders.dns),
      icmp_(link_, counters_),
      tcp_(loop, link_, deciders.opener, deciders.names, deciders.literals, deciders.dns, counters_,
           std::move(options)) {}

void Backend::on_frame(std::span<const std::byte> frame, const FrameOffload& offload) {
  counters_.frames_in++;
  const Parsed<EthernetFrame> ethernet = parse_ethernet(frame, offload);
  if (!ethernet) {
    counters_.drop(ethernet.error());
  } else if (ethernet->source != kGuestMac) {
    counters_.drop(Drop::kSourceMac);
  } else if (ethernet->type == wire::kTypeIpv6) {
    on_ipv6(*ethernet, offload);
  } else if (ethernet->destination != kGatewayMac && ethernet->destination != kBroadcastMac) {
    counters_.drop(Drop::kDestinationMac);
  } else if (ethernet->type == wire::kTypeArp) {
    on_arp(*ethernet);
  } else if (ethernet->type == wire::kTypeIpv4) {
    on_ipv4(*ethernet, offload);
  } else {
    counters_.drop(Drop::kEtherType);
  }
}

void Backend::on_batch_end() {
  tcp_.run();
  link_.flush();
}

void Backend::on_room() {
  tcp_.on_room();
  tcp_.run();
}

size_t Backend::close_where(const std::function<bool(const FlowTarget&)>& is_cut) {
  return tcp_.close_where(is_cut);
}

void Backend::reset_all() {
  tcp_.reset_all();
}

// The gateway's address is the only one that has an answer. Nothing is learnt: who the guest is
// stands fast.
void Backend::on_arp(const EthernetFrame& frame) {
  const Parsed<ArpMessage> message = parse_arp(frame.payload);
  if (!message) {
    counters_.drop(message.error());
  } else if (message->sender_mac != kGuestMac ||
             (message->sender != kGuestAddress && message->sender != kUnspecified)) {
    counters_.drop(Drop::kArpSpoof);
  } else if (message->operation != wire::kArpRequest || message->target != kGatewayAddress) {
    counters_.drop(Drop::kArpUnasked);
  } else if (!link_.send_arp_reply(*message)) {
    counters_.drop(Drop::kNoRoom);
  }
}

void Backend::on_ipv4(const EthernetFrame& frame, const FrameOffload& offload) {
  const Parsed<IpPacket> packet = parse_ipv4(frame);
  if (!packet) {
    counters_.drop(packet.error());
    return;
  }
  const auto parse = with_reason(counters_, *packet, offload);
  // A guest that has no address yet may only ask for one; and it may broadcast that.
  if (packet->protocol == wire::kProtocolUdp &&
      (packet->destination == kBroadcast || packet->destination == kGatewayAddress)) {
    const bool is_guest = packet->source == kGuestAddress;
    const bool is_new = packet->source == kUnspecified && packet->destination == kBroadcast;
    const Parsed<UdpPacket> datagram = parse_udp(*packet, offload);
    if ((is_guest || is_new) && datagram && datagram->destination_port == kDhcpServerPort &&
        datagram->source_port == kDhcpClientPort) {
      on_dhcp(*datagram);
      return;
    }
  }
  if (packet->source != kGuestAddress) {
    counters_.drop(Drop::kIpSource);
  } else if (!is_unicast(packet->destination) || frame.destination != kGatewayMac) {
    counters_.drop(Drop::kIpDestination);
  } else if (packet->protocol == wire::kProtocolTcp) {
    parse(parse_tcp, [&](const TcpPacket& tcp) { tcp_.on_segment(packet->destination, tcp); });
  } else if (packet->protocol == wire::kProtocolUdp) {
    parse(parse_udp, [&](const UdpPacket& udp) { on_udp(*packet, udp); });
  } else if (packet->protocol == wire::kProtocolIcmp) {
    parse(parse_icmp,
          [&](const IcmpMessage& message) { icmp_.on_message(*packet, message, clock_()); });
  } else {
    counters_.drop(Drop::kIpProtocol);
  }
}

void Backend::on_ipv6(const EthernetFrame& frame, const FrameOffload& offload) {
  if (!ipv6_) {
    counters_.drop(Drop::kIpv6);
    return;
  }
  const Parsed<IpPacket> packet = parse_ipv6(frame);
  if (!packet) {
    counters_.drop(packet.error());
    return;
  }
  const auto parse = with_reason(counters_, *packet, offload);
  const bool is_icmp = packet->protocol == wire::kProtocolIcmp6;
  const bool is_to_gateway = frame.destination == kGatewayMac;
  // Only the question for its MAC address comes by multicast, and may come from a link-local
  // address.
  if (!is_to_gateway && !(is_icmp && is_multicast6(frame.destination))) {
    counters_.drop(Drop::kDestinationMac);
  } else if (packet->source != kGuestAddress6 && !(is_icmp && is_link_local(packet->source))) {
    counters_.drop(Drop::kIpSource);
  } else if (is_icmp) {
    parse(parse_icmp,
          [&](const IcmpMessage& message) { icmp_.on_message6(*packet, message, clock_()); });
  } else if (!is_unicast6(packet->destination)) {
    counters_.drop(Drop::kIpDestination);
  } else if (packet->protocol == wire::kProtocolTcp) {
    parse(parse_tcp, [&](const TcpPacket& tcp) { tcp_.on_segment(packet->destination, tcp); });
  } else if (packet->protocol == wire::kProtocolUdp) {
    parse(parse_udp, [&](const UdpPacket& udp) { on_udp(*packet, udp); });
  } else {
    counters_.drop(Drop::kIpProtocol);
  }
}

void Backend::on_udp(const IpPacket& packet, const UdpPacket& datagram) {
  if (datagram.destination_port == kDnsPort && datagram.source_port != 0) {
    on_dns(packet, datagram);
    return;
  }
  counters_.drop(Drop::kUdpUnreachable);
  icmp_.refuse(packet, clock_());
}

void Backend::on_dhcp(const UdpPacket& datagram) {
  const std::optional<DhcpAnswer> answer = answer_dhcp(datagram.payload);
  if (!answer) {
    counters_.drop(Drop::kDhcp);
  } else if (!link_.send_udp(kGatewayAddress, kDhcpServerPort, answer->destination, kDhcpClientPort,
                             answer->message)) {
    counters_.drop(Drop::kNoRoom);
  }
}

// Whoever was asked: the answer is ours, in their name.
void Backend::on_dns(const IpPacket& packet, const UdpPacket& datagram) {
  const auto answer = dns_.answer(datagram.payload, kMaxDatagram);
  if (!answer || answer->size() > kMaxDatagram) {
    counters_.drop(Drop::kDns);
  } else if (!link_.send_udp(packet.destination, kDnsPort, packet.source, datagram.source_port,
                             *answer)) {
    counters_.drop(Drop::kNoRoom);
  }
}

}  // namespace hutch::net
