// Counters of the network: what passed, and for each reason how often something did not.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace hutch::net {

// Why something of the guest was dropped, or refused with an answer. Everything that is not
// expressly understood has its reason here.
#define HUTCH_NET_DROPS(X)                                                              \
  X(kFrameLength, "frame-length")       /* shorter than a header, or longer than MTU */ \
  X(kSourceMac, "source-mac")           /* not the guest's */                           \
  X(kDestinationMac, "destination-mac") /* neither the gateway's nor broadcast */       \
  X(kEtherType, "ether-type")           /* VLAN, LLC, PPPoE and all others */           \
  X(kIpv6, "ipv6")                      /* nothing of version 6 */                      \
  X(kOffload, "offload")                /* a description that does not fit the frame */ \
  X(kArpMalformed, "arp-malformed")     /* not Ethernet and IPv4, or too short */       \
  X(kArpSpoof, "arp-spoof")             /* the sender says to be somebody else */       \
  X(kArpUnasked, "arp-unasked")         /* no question for the gateway's address */     \
  X(kIpHeader, "ip-header")             /* version, length, options */                  \
  X(kIpLength, "ip-length")             /* not the frame's */                           \
  X(kIpChecksum, "ip-checksum")                                                         \
  X(kIpFragment, "ip-fragment")                                                         \
  X(kIpSource, "ip-source")           /* not the guest's */                             \
  X(kIpDestination, "ip-destination") /* nobody can be there */                         \
  X(kIpProtocol, "ip-protocol")       /* neither TCP, UDP nor ICMP */                   \
  X(kTcpHeader, "tcp-header")         /* lengths, options, port 0 */                    \
  X(kTcpChecksum, "tcp-checksum")                                                       \
  X(kTcpFlags, "tcp-flags")          /* combinations that mean nothing */               \
  X(kTcpNoFlow, "tcp-no-flow")       /* of no flow; answered by a reset */              \
  X(kTcpNoName, "tcp-no-name")       /* to an address that may not be asked for */      \
  X(kTcpRefused, "tcp-refused")      /* the far side or the policy said no */           \
  X(kTcpSynRate, "tcp-syn-rate")     /* too many SYNs a second */                       \
  X(kTcpTableFull, "tcp-table-full") /* too many flows, or too many that open */        \
  X(kUdpHeader, "udp-header")                                                           \
  X(kUdpChecksum, "udp-checksum")                                                       \
  X(kUdpUnreachable, "udp-unreachable") /* neither DNS nor DHCP */                      \
  X(kDns, "dns")                        /* no answer to this query */                   \
  X(kDhcp, "dhcp")                      /* no answer to this message */                 \
  X(kIcmpHeader, "icmp-header")                                                         \
  X(kIcmpKind, "icmp-kind") /* no echo request to the gateway */                        \
  X(kIcmpRate, "icmp-rate")                                                             \
  X(kNoRoom, "no-room") /* an answer, for which the guest had no room */

enum class Drop : uint8_t {
#define HUTCH_NET_DROP(name, text) name,
  HUTCH_NET_DROPS(HUTCH_NET_DROP)
#undef HUTCH_NET_DROP
      kCount
};

constexpr size_t kDropReasons = static_cast<size_t>(Drop::kCount);

std::string_view drop_name(Drop drop);

struct Counters {
  std::array<uint64_t, kDropReasons> drops{};
  uint64_t frames_in = 0;     // from the guest
  uint64_t frames_out = 0;    // to the guest
  uint64_t flows_asked = 0;   // of FlowOpener
  uint64_t flows_joined = 0;  // that got their stream
  uint64_t bytes_to_streams = 0;
  uint64_t bytes_to_guest = 0;  // of streams; a retransmission does not count

  void drop(Drop reason) { drops[static_cast<size_t>(reason)]++; }
  uint64_t dropped(Drop reason) const { return drops[static_cast<size_t>(reason)]; }
};

}  // namespace hutch::net
