// Link: puts packets for the guest into frames and gives them to the device. One end of the cable
// has the guest's addresses, the other the gateway's, whoever the packet is from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/frames.h"
#include "base/ip_address.h"
#include "net/counters.h"
#include "net/packet.h"
#include "net/tcp_segment.h"

namespace hutch::net {

// The two ends of a TCP connection of the guest.
struct FlowKey {
  IpAddress far;
  uint16_t far_port = 0;
  uint16_t guest_port = 0;

  friend bool operator==(const FlowKey&, const FlowKey&) = default;
};

// Each send: false, and nothing is sent, when the guest has no room.
class Link {
 public:
  // Both must outlive it.
  Link(FrameSender& device, Counters& counters) : device_(device), counters_(counters) {}

  // The payload that one frame of a flow may have, cut by the device into `segment_size` bytes.
  size_t max_tcp_payload(const FlowKey& key, uint16_t segment_size) const;
  bool send_tcp(const FlowKey& key, const TcpSegment& segment, uint16_t segment_size);
  bool send_udp(const IpAddress& source, uint16_t source_port, const IpAddress& destination,
                uint16_t destination_port, std::span<const std::byte> payload);
  // From the gateway, of the destination's version. `rest` is the second word of the header.
  bool send_icmp(const IpAddress& destination, uint8_t type, uint8_t code, uint32_t rest,
                 std::span<const std::byte> payload);
  // The answer to an ARP request for the gateway's address.
  bool send_arp_reply(const ArpMessage& request);
  // The answer to whoever of the guest's addresses asks where the gateway is (RFC 4861).
  bool send_neighbor_advertisement(const IpAddress& destination);
  // The guest is told of what was sent.
  void flush();

 private:
  bool send(std::span<const std::span<const std::byte>> pieces, const FrameOffload& offload = {});

  FrameSender& device_;
  Counters& counters_;
  bool is_unflushed_ = false;
};

}  // namespace hutch::net
