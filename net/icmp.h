// Icmp: the gateway answers pings to itself, and says where nothing goes (RFC 792, RFC 1812
// section 5.2.7.1, and of version 6 RFC 4443), and, over IPv6, where it is itself (RFC 4861).
// Limited in rate; nothing of the guest's payload goes anywhere but back to it.
#pragma once

#include <cstdint>

#include "base/token_bucket.h"
#include "net/counters.h"
#include "net/link.h"
#include "net/packet.h"

namespace hutch::net {

class Icmp {
 public:
  static constexpr uint64_t kBurst = 32;
  static constexpr uint64_t kPerSecond = 100;

  // Both must outlive it.
  Icmp(Link& link, Counters& counters) : link_(link), counters_(counters) {}

  // A message of the guest; `packet` holds it.
  void on_message(const IpPacket& packet, const IcmpMessage& message, uint64_t now_ns);
  // A message of version 6, of the guest or its link-local address.
  void on_message6(const IpPacket& packet, const IcmpMessage& message, uint64_t now_ns);
  // Tells the guest that its packet is not let through.
  void refuse(const IpPacket& packet, uint64_t now_ns);

 private:
  Link& link_;
  Counters& counters_;
  TokenBucket answers_{kBurst, kPerSecond};
};

}  // namespace hutch::net
