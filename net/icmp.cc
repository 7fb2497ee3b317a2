#include "net/icmp.h"

#include <algorithm>

namespace hutch::net {
namespace {
// Of the packet that is refused: what says whose it is, behind its header (RFC 792).
constexpr size_t kQuoted = 8;

// A question for the gateway's MAC address, from this link (RFC 4861 section 7.1.1).
bool asks_for_gateway(const IpPacket& packet, const IcmpMessage& message) {
  constexpr uint8_t kFromThisLink = 255;
  const auto wanted = std::as_bytes(kGatewayAddress6.bytes());
  return message.type == wire::kNeighborSolicitation && message.code == 0 &&
         packet.hop_limit == kFromThisLink && message.payload.size() >= wanted.size() &&
         std::ranges::equal(message.payload.first(wanted.size()), wanted);
}
}  // namespace

void Icmp::on_message(const IpPacket& packet, const IcmpMessage& message, uint64_t now_ns) {
  if (packet.destination != kGatewayAddress || message.type != wire::kIcmpEchoRequest ||
      message.code != 0) {
    counters_.drop(Drop::kIcmpKind);
  } else if (answers_.take(1, now_ns) == 0) {
    counters_.drop(Drop::kIcmpRate);
  } else if (!link_.send_icmp(kGuestAddress, wire::kIcmpEchoReply, 0, message.rest,
                              message.payload)) {
    counters_.drop(Drop::kNoRoom);
  }
}

void Icmp::on_message6(const IpPacket& packet, const IcmpMessage& message, uint64_t now_ns) {
  const bool asks = asks_for_gateway(packet, message);
  const bool pings = packet.destination == kGatewayAddress6 && packet.source == kGuestAddress6 &&
                     message.type == wire::kIcmp6EchoRequest && message.code == 0;
  if (!asks && !pings) {
    counters_.drop(Drop::kIcmpKind);
  } else if (answers_.take(1, now_ns) == 0) {
    counters_.drop(Drop::kIcmpRate);
  } else if (!(asks ? link_.send_neighbor_advertisement(packet.source)
                    : link_.send_icmp(kGuestAddress6, wire::kIcmp6EchoReply, 0, message.rest,
                                      message.payload))) {
    counters_.drop(Drop::kNoRoom);
  }
}

void Icmp::refuse(const IpPacket& packet, uint64_t now_ns) {
  if (answers_.take(1, now_ns) == 0) return;
  const size_t header = packet.whole.size() - packet.payload.size();
  const auto quote = packet.whole.first(std::min(packet.whole.size(), header + kQuoted));
  const bool is_sent = packet.source.is_v4()
                           ? link_.send_icmp(kGuestAddress, wire::kIcmpUnreachable,
                                             wire::kIcmpCodeProhibited, 0, quote)
                           : link_.send_icmp(kGuestAddress6, wire::kIcmp6Unreachable,
                                             wire::kIcmp6CodeProhibited, 0, quote);
  if (!is_sent) counters_.drop(Drop::kNoRoom);
}

}  // namespace hutch::net
