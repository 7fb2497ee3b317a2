#include "net/packet.h"

#include <cstring>
#include <optional>

#include "net/checksum.h"

namespace hutch::net {
namespace {

// Frames up to this length may be padded behind the packet (IEEE 802.3: 64 bytes with the FCS).
constexpr size_t kMinEthernet = 60;
constexpr uint8_t kIpv4Plain = 0x45;  // version 4, a header of five words
constexpr uint16_t kDontFragment = 0x4000;
constexpr uint8_t kMaxWindowScale = 14;
constexpr uint16_t kTcpChecksumOffset = 16;
constexpr uint16_t kUdpChecksumOffset = 6;

tl::unexpected<Drop> drop(Drop reason) {
  return tl::unexpected(reason);
}

// Copies the header at the front of `bytes`; nothing when they are too short.
template <typename T>
std::optional<T> front(std::span<const std::byte> bytes) {
  T header;
  if (bytes.size() < sizeof header) return std::nullopt;
  std::memcpy(&header, bytes.data(), sizeof header);
  return header;
}

// Whether what the frame leaves open is this packet's checksum, and nothing else.
bool fits(const FrameOffload& offload, const IpPacket& packet, uint16_t checksum_offset) {
  return !offload.needs_checksum || (offload.checksum_start == packet.payload_offset &&
                                     offload.checksum_offset == checksum_offset);
}

bool is_sum_right(const FrameOffload& offload, const IpPacket& packet) {
  if (offload.needs_checksum || offload.checked) return true;
  const uint16_t pseudo =
      pseudo_header_sum(packet.source, packet.destination, packet.protocol, packet.payload.size());
  return Checksum().add_object(pseudo).add(packet.payload).value() == 0;
}

// MSS and window scale out of the options of a SYN (RFC 9293 section 3.1, RFC 7323 section 2.2);
// all others are skipped. False: the options do not fit together.
bool parse_options(std::span<const std::byte> options, TcpSegment& segment) {
  constexpr uint8_t kEnd = 0;
  constexpr uint8_t kNothing = 1;
  constexpr uint8_t kMss = 2;
  constexpr uint8_t kWindowScale = 3;
  auto at = [&](size_t index) { return std::to_integer<uint8_t>(options[index]); };
  while (!options.empty() && at(0) != kEnd) {
    if (at(0) == kNothing) {
      options = options.subspan(1);
      continue;
    }
    if (options.size() < 2 || at(1) < 2 || at(1) > options.size()) return false;
    if (at(0) == kMss && at(1) == 4 && segment.has(tcp::kSyn))
      segment.mss = static_cast<uint16_t>(at(2) << 8 | at(3));
    if (at(0) == kWindowScale && at(1) == 3 && segment.has(tcp::kSyn))
      segment.window_scale = std::min(at(2), kMaxWindowScale);
    options = options.subspan(at(1));
  }
  return true;
}

}  // namespace

Parsed<EthernetFrame> parse_ethernet(std::span<const std::byte> frame,
                                     const FrameOffload& offload) {
  const auto header = front<wire::Ethernet>(frame);
  const bool may_be_large = offload.segmentation != FrameOffload::Segmentation::kNone;
  const size_t limit = may_be_large ? kMaxFrame : kMtu + sizeof(wire::Ethernet);
  if (!header || frame.size() > limit) return drop(Drop::kFrameLength);
  return EthernetFrame{.destination = header->destination,
                       .source = header->source,
                       .type = header->type,
                       .payload = frame.subspan(sizeof *header)};
}

Parsed<ArpMessage> parse_arp(std::span<const std::byte> payload) {
  constexpr uint16_t kEthernet = 1;
  const auto message = front<wire::Arp>(payload);
  if (!message || message->hardware != kEthernet || message->protocol != wire::kTypeIpv4 ||
      message->hardware_size != 6 || message->protocol_size != 4)
    return drop(Drop::kArpMalformed);
  return ArpMessage{.operation = message->operation,
                    .sender_mac = message->sender_mac,
                    .sender = IpAddress::v4(message->sender),
                    .target_mac = message->target_mac,
                    .target = IpAddress::v4(message->target)};
}

Parsed<IpPacket> parse_ipv4(const EthernetFrame& frame) {
  const auto header = front<wire::Ipv4>(frame.payload);
  if (!header || header->version_and_length != kIpv4Plain) return drop(Drop::kIpHeader);
  const size_t total = header->total_length;
  const bool may_be_padded = frame.payload.size() + sizeof(wire::Ethernet) <= kMinEthernet;
  if (total < sizeof *header || total > frame.payload.size() ||
      (total < frame.payload.size() && !may_be_padded))
    return drop(Drop::kIpLength);
  if (Checksum().add_object(*header).value() != 0) return drop(Drop::kIpChecksum);
  // Not fragmented, and the reserved bit is clear.
  if ((header->fragment & ~kDontFragment) != 0) return drop(Drop::kIpFragment);
  if (header->time_to_live == 0) return drop(Drop::kIpHeader);
  return IpPacket{.source = IpAddress::v4(header->source),
                  .destination = IpAddress::v4(header->destination),
                  .protocol = header->protocol,
                  .hop_limit = header->time_to_live,
                  .whole = frame.payload.first(total),
                  .payload = frame.payload.subspan(sizeof *header, total - sizeof *header),
                  .payload_offset = sizeof(wire::Ethernet) + sizeof *header};
}

Parsed<IpPacket> parse_ipv6(const EthernetFrame& frame) {
  constexpr uint32_t kVersion = 6;
  const auto header = front<wire::Ipv6>(frame.payload);
  if (!header || uint32_t{header->version_class_flow} >> 28 != kVersion || header->hop_limit == 0)
    return drop(Drop::kIpHeader);
  const size_t total = sizeof *header + header->payload_length;
  const bool may_be_padded = frame.payload.size() + sizeof(wire::Ethernet) <= kMinEthernet;
  if (header->payload_length == 0 || total > frame.payload.size() ||
      (total < frame.payload.size() && !may_be_padded))
    return drop(Drop::kIpLength);
  if (header->next_header == wire::kProtocolFragment) return drop(Drop::kIpFragment);
  return IpPacket{.source = IpAddress::v6(header->source),
                  .destination = IpAddress::v6(header->destination),
                  .protocol = header->next_header,
                  .hop_limit = header->hop_limit,
                  .whole = frame.payload.first(total),
                  .payload = frame.payload.subspan(sizeof *header, total - sizeof *header),
                  .payload_offset = sizeof(wire::Ethernet) + sizeof *header};
}

Parsed<TcpPacket> parse_tcp(const IpPacket& packet, const FrameOffload& offload) {
  using Segmentation = FrameOffload::Segmentation;
  const Segmentation own = packet.source.is_v4() ? Segmentation::kTcp4 : Segmentation::kTcp6;
  if (!fits(offload, packet, kTcpChecksumOffset)) return drop(Drop::kOffload);
  // What is cut later cannot have its checksum yet.
  if (offload.segmentation != Segmentation::kNone &&
      (offload.segmentation != own || offload.segment_size == 0 || !offload.needs_checksum))
    return drop(Drop::kOffload);
  const auto header = front<wire::Tcp>(packet.payload);
  if (!header || header->source_port == 0 || header->destination_port == 0)
    return drop(Drop::kTcpHeader);
  // In words; the lower half of the byte is reserved, and ignored.
  const size_t header_size = static_cast<size_t>(header->data_offset >> 4) * 4;
  if (header_size < sizeof *header || header_size > packet.payload.size())
    return drop(Drop::kTcpHeader);
  if (!is_sum_right(offload, packet)) return drop(Drop::kTcpChecksum);
  TcpPacket parsed{.source_port = header->source_port,
                   .destination_port = header->destination_port,
                   .segment = {.sequence = header->sequence,
                               .acknowledgement = header->acknowledgement,
                               .flags = header->flags,
                               .window = header->window,
                               .payload = {packet.payload.subspan(header_size)}}};
  if (!parse_options(packet.payload.subspan(sizeof *header, header_size - sizeof *header),
                     parsed.segment))
    return drop(Drop::kTcpHeader);
  return parsed;
}

Parsed<UdpPacket> parse_udp(const IpPacket& packet, const FrameOffload& offload) {
  if (!fits(offload, packet, kUdpChecksumOffset) ||
      offload.segmentation != FrameOffload::Segmentation::kNone)
    return drop(Drop::kOffload);
  const auto header = front<wire::Udp>(packet.payload);
  if (!header || header->length != packet.payload.size() || header->destination_port == 0)
    return drop(Drop::kUdpHeader);
  // Over IPv4 a checksum of zero says that there is none (RFC 768).
  const bool has_none = header->checksum == 0 && packet.source.is_v4();
  if (!has_none && !is_sum_right(offload, packet)) return drop(Drop::kUdpChecksum);
  return UdpPacket{.source_port = header->source_port,
                   .destination_port = header->destination_port,
                   .payload = packet.payload.subspan(sizeof *header)};
}

Parsed<IcmpMessage> parse_icmp(const IpPacket& packet, const FrameOffload& offload) {
  if (offload.needs_checksum || offload.segmentation != FrameOffload::Segmentation::kNone)
    return drop(Drop::kOffload);
  const auto header = front<wire::Icmp>(packet.payload);
  // Version 6 has the addresses in its sum (RFC 4443 section 2.3).
  const uint16_t pseudo = packet.source.is_v4()
                              ? uint16_t{0}
                              : pseudo_header_sum(packet.source, packet.destination,
                                                  packet.protocol, packet.payload.size());
  if (!header || Checksum().add_object(pseudo).add(packet.payload).value() != 0)
    return drop(Drop::kIcmpHeader);
  return IcmpMessage{.type = header->type,
                     .code = header->code,
                     .rest = header->rest,
                     .payload = packet.payload.subspan(sizeof *header)};
}

uint16_t pseudo_header_sum(const IpAddress& source, const IpAddress& destination, uint8_t protocol,
                           size_t length) {
  // Both versions' pseudo headers have the same sum: version 6 only has wider fields.
  const struct {
    be32 length;
    be32 protocol;
  } rest{static_cast<uint32_t>(length), protocol};
  return Checksum()
      .add(std::as_bytes(source.bytes()))
      .add(std::as_bytes(destination.bytes()))
      .add(std::as_bytes(std::span(&rest, 1)))
      .partial();
}

}  // namespace hutch::net
