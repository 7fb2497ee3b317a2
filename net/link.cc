#include "net/link.h"

#include <array>
#include <cstring>

#include "net/checksum.h"

namespace hutch::net {
namespace {

constexpr wire::Ethernet kToGuest{
    .destination = kGuestMac, .source = kGatewayMac, .type = wire::kTypeIpv4};
constexpr uint16_t kDontFragment = 0x4000;
constexpr uint8_t kTimeToLive = 64;
constexpr size_t kMaxOptions = 8;
// An IP packet's length has 16 bits.
constexpr size_t kMaxLargePayload = 65535 - sizeof(wire::Ipv4) - sizeof(wire::Tcp);

template <typename T>
std::span<const std::byte> bytes_of(const T& object) {
  return std::as_bytes(std::span(&object, 1));
}

// The options of a SYN, in whole words; returns their length.
size_t write_options(const TcpSegment& segment, std::array<uint8_t, kMaxOptions>& options) {
  size_t size = 0;
  if (segment.mss) {
    options[size++] = 2;
    options[size++] = 4;
    options[size++] = static_cast<uint8_t>(*segment.mss >> 8);
    options[size++] = static_cast<uint8_t>(*segment.mss);
  }
  if (segment.window_scale) {
    options[size++] = 1;  // nothing, for the alignment
    options[size++] = 3;
    options[size++] = 3;
    options[size++] = *segment.window_scale;
  }
  return size;
}

}  // namespace

size_t Link::max_tcp_payload(uint16_t segment_size) const {
  const FrameSender::Abilities abilities = device_.abilities();
  if (!abilities.checksum || !abilities.tcp4) return segment_size;
  return kMaxLargePayload / segment_size * segment_size;
}

wire::Ipv4 Link::ipv4_header(const IpAddress& source, const IpAddress& destination,
                             uint8_t protocol, size_t payload) {
  wire::Ipv4 header{.version_and_length = 0x45,
                    .service = 0,
                    .total_length = static_cast<uint16_t>(sizeof(wire::Ipv4) + payload),
                    .identification = 0,  // never fragmented: RFC 6864 section 4.1
                    .fragment = kDontFragment,
                    .time_to_live = kTimeToLive,
                    .protocol = protocol,
                    .checksum = 0,
                    .source = source.v4_value(),
                    .destination = destination.v4_value()};
  header.checksum = Checksum().add_object(header).value();
  return header;
}

bool Link::send(std::span<const std::span<const std::byte>> pieces, const FrameOffload& offload) {
  if (!device_.send(pieces, offload)) return false;
  counters_.frames_out++;
  is_unflushed_ = true;
  return true;
}

void Link::flush() {
  if (!is_unflushed_) return;
  is_unflushed_ = false;
  device_.flush();
}

bool Link::send_tcp(const FlowKey& key, const TcpSegment& segment, uint16_t segment_size) {
  struct Headers {
    wire::Ethernet ethernet;
    wire::Ipv4 ip;
    wire::Tcp tcp;
    std::array<uint8_t, kMaxOptions> options;
  };
  static_assert(sizeof(Headers) == 14 + 20 + 20 + kMaxOptions);
  constexpr size_t kTcpOffset = sizeof(wire::Ethernet) + sizeof(wire::Ipv4);
  constexpr uint16_t kChecksumOffset = 16;

  Headers headers{};
  const size_t options = write_options(segment, headers.options);
  const size_t payload = segment.payload_size();
  const size_t length = sizeof(wire::Tcp) + options + payload;
  headers.ethernet = kToGuest;
  headers.ip = ipv4_header(key.far, kGuestAddress, wire::kProtocolTcp, length);
  headers.tcp = {.source_port = key.far_port,
                 .destination_port = key.guest_port,
                 .sequence = segment.sequence,
                 .acknowledgement = segment.acknowledgement,
                 .data_offset = static_cast<uint8_t>((sizeof(wire::Tcp) + options) / 4 << 4),
                 .flags = segment.flags,
                 .window = segment.window,
                 .checksum = 0,
                 .urgent = 0};
  const uint16_t pseudo = pseudo_header_sum(key.far, kGuestAddress, wire::kProtocolTcp, length);
  const auto all_headers = bytes_of(headers).first(kTcpOffset + sizeof(wire::Tcp) + options);
  FrameOffload offload;
  if (device_.abilities().checksum) {
    headers.tcp.checksum = pseudo;
    offload.needs_checksum = true;
    offload.checksum_start = kTcpOffset;
    offload.checksum_offset = kChecksumOffset;
  } else {
    headers.tcp.checksum = Checksum()
                               .add_object(pseudo)
                               .add(all_headers.subspan(kTcpOffset))
                               .add(segment.payload[0])
                               .add(segment.payload[1])
                               .value();
  }
  if (payload > segment_size) {
    offload.segmentation = FrameOffload::Segmentation::kTcp4;
    offload.header_size = static_cast<uint16_t>(all_headers.size());
    offload.segment_size = segment_size;
  }
  const std::array<std::span<const std::byte>, 3> pieces = {all_headers, segment.payload[0],
                                                            segment.payload[1]};
  const size_t count = !segment.payload[1].empty() ? 3 : payload > 0 ? 2 : 1;
  return send(std::span(pieces).first(count), offload);
}

bool Link::send_udp(const IpAddress& source, uint16_t source_port, const IpAddress& destination,
                    uint16_t destination_port, std::span<const std::byte> payload) {
  const size_t length = sizeof(wire::Udp) + payload.size();
  const wire::Ipv4 ip = ipv4_header(source, destination, wire::kProtocolUdp, length);
  wire::Udp udp{.source_port = source_port,
                .destination_port = destination_port,
                .length = static_cast<uint16_t>(length),
                .checksum = 0};
  const uint16_t pseudo = pseudo_header_sum(source, destination, wire::kProtocolUdp, length);
  const uint16_t sum = Checksum().add_object(pseudo).add_object(udp).add(payload).value();
  udp.checksum = sum == 0 ? uint16_t{0xffff} : sum;  // 0 would say that there is none
  const std::array<std::span<const std::byte>, 4> pieces = {bytes_of(kToGuest), bytes_of(ip),
                                                            bytes_of(udp), payload};
  return send(pieces);
}

bool Link::send_icmp(uint8_t type, uint8_t code, uint32_t rest,
                     std::span<const std::byte> payload) {
  const wire::Ipv4 ip = ipv4_header(kGatewayAddress, kGuestAddress, wire::kProtocolIcmp,
                                    sizeof(wire::Icmp) + payload.size());
  wire::Icmp icmp{.type = type, .code = code, .checksum = 0, .rest = rest};
  icmp.checksum = Checksum().add_object(icmp).add(payload).value();
  const std::array<std::span<const std::byte>, 4> pieces = {bytes_of(kToGuest), bytes_of(ip),
                                                            bytes_of(icmp), payload};
  return send(pieces);
}

bool Link::send_arp_reply(const ArpMessage& request) {
  wire::Ethernet ethernet = kToGuest;
  ethernet.type = wire::kTypeArp;
  const wire::Arp arp{.hardware = 1,
                      .protocol = wire::kTypeIpv4,
                      .hardware_size = 6,
                      .protocol_size = 4,
                      .operation = wire::kArpReply,
                      .sender_mac = kGatewayMac,
                      .sender = kGatewayAddress.v4_value(),
                      .target_mac = kGuestMac,
                      .target = request.sender.v4_value()};
  const std::array<std::span<const std::byte>, 2> pieces = {bytes_of(ethernet), bytes_of(arp)};
  return send(pieces);
}

}  // namespace hutch::net
