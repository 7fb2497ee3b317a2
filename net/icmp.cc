#include "net/icmp.h"

#include <algorithm>

namespace hutch::net {
namespace {
// Of the packet that is refused: its header and what says whose it is (RFC 792).
constexpr size_t kQuoted = sizeof(wire::Ipv4) + 8;
}  // namespace

void Icmp::on_message(const IpPacket& packet, const IcmpMessage& message, uint64_t now_ns) {
  if (packet.destination != kGatewayAddress || message.type != wire::kIcmpEchoRequest ||
      message.code != 0) {
    counters_.drop(Drop::kIcmpKind);
  } else if (answers_.take(1, now_ns) == 0) {
    counters_.drop(Drop::kIcmpRate);
  } else if (!link_.send_icmp(wire::kIcmpEchoReply, 0, message.rest, message.payload)) {
    counters_.drop(Drop::kNoRoom);
  }
}

void Icmp::refuse(const IpPacket& packet, uint64_t now_ns) {
  if (answers_.take(1, now_ns) == 0) return;
  const auto quote = packet.whole.first(std::min(packet.whole.size(), kQuoted));
  if (!link_.send_icmp(wire::kIcmpUnreachable, wire::kIcmpCodeProhibited, 0, quote))
    counters_.drop(Drop::kNoRoom);
}

}  // namespace hutch::net
