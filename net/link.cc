#include "net/link.h"

#include <algorithm>
#include <array>

#include "net/checksum.h"

namespace hutch::net {
namespace {

constexpr uint16_t kDontFragment = 0x4000;
constexpr uint8_t kTimeToLive = 64;
constexpr uint8_t kNeighborHopLimit = 255;  // RFC 4861 section 7.1: from this link
constexpr size_t kMaxOptions = 8;

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

wire::Ipv4 ipv4_header(const IpAddress& source, const IpAddress& destination, uint8_t protocol,
                       size_t payload) {
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

wire::Ipv6 ipv6_header(const IpAddress& source, const IpAddress& destination, uint8_t protocol,
                       size_t payload) {
  wire::Ipv6 header{.version_class_flow = uint32_t{6} << 28,
                    .payload_length = static_cast<uint16_t>(payload),
                    .next_header = protocol,
                    .hop_limit = protocol == wire::kProtocolIcmp6 ? kNeighborHopLimit : kTimeToLive,
                    .source = {},
                    .destination = {}};
  std::ranges::copy(source.bytes(), header.source.begin());
  std::ranges::copy(destination.bytes(), header.destination.begin());
  return header;
}

// What stands before a packet's payload, put together piece by piece.
class Headers {
 public:
  // Ethernet and IP of the addresses' version, for `payload` bytes behind them.
  Headers(const IpAddress& source, const IpAddress& destination, uint8_t protocol, size_t payload) {
    add(wire::Ethernet{.destination = kGuestMac,
                       .source = kGatewayMac,
                       .type = source.is_v4() ? wire::kTypeIpv4 : wire::kTypeIpv6});
    if (source.is_v4()) {
      add(ipv4_header(source, destination, protocol, payload));
    } else {
      add(ipv6_header(source, destination, protocol, payload));
    }
  }
  template <typename T>
  void add(const T& object) {
    add(bytes_of(object));
  }
  void add(std::span<const std::byte> more) {
    std::ranges::copy(more, bytes_.begin() + static_cast<std::ptrdiff_t>(size_));
    size_ += more.size();
  }
  size_t size() const { return size_; }
  std::span<const std::byte> bytes() const { return std::span(bytes_).first(size_); }

 private:
  std::array<std::byte,
             sizeof(wire::Ethernet) + sizeof(wire::Ipv6) + sizeof(wire::Tcp) + kMaxOptions>
      bytes_;
  size_t size_ = 0;
};

// The guest's own address of the other end's version.
const IpAddress& guest_beside(const IpAddress& other) {
  return other.is_v4() ? kGuestAddress : kGuestAddress6;
}

}  // namespace

size_t Link::max_tcp_payload(const FlowKey& key, uint16_t segment_size) const {
  const FrameSender::Abilities abilities = device_.abilities();
  const bool can_be_large = key.far.is_v4() ? abilities.tcp4 : abilities.tcp6;
  if (!abilities.checksum || !can_be_large) return segment_size;
  // An IP packet's length has 16 bits.
  const size_t header = key.far.is_v4() ? sizeof(wire::Ipv4) : sizeof(wire::Ipv6);
  return (65535 - header - sizeof(wire::Tcp)) / segment_size * segment_size;
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
  constexpr uint16_t kChecksumOffset = 16;
  std::array<uint8_t, kMaxOptions> options{};
  const size_t options_size = write_options(segment, options);
  const size_t payload = segment.payload_size();
  const size_t length = sizeof(wire::Tcp) + options_size + payload;
  const IpAddress& guest = guest_beside(key.far);
  Headers headers(key.far, guest, wire::kProtocolTcp, length);
  const size_t tcp_offset = headers.size();
  wire::Tcp tcp{.source_port = key.far_port,
                .destination_port = key.guest_port,
                .sequence = segment.sequence,
                .acknowledgement = segment.acknowledgement,
                .data_offset = static_cast<uint8_t>((sizeof(wire::Tcp) + options_size) / 4 << 4),
                .flags = segment.flags,
                .window = segment.window,
                .checksum = 0,
                .urgent = 0};
  const auto options_bytes = std::as_bytes(std::span(options)).first(options_size);
  const uint16_t pseudo = pseudo_header_sum(key.far, guest, wire::kProtocolTcp, length);
  FrameOffload offload;
  if (device_.abilities().checksum) {
    tcp.checksum = pseudo;
    offload.needs_checksum = true;
    offload.checksum_start = static_cast<uint16_t>(tcp_offset);
    offload.checksum_offset = kChecksumOffset;
  } else {
    tcp.checksum = Checksum()
                       .add_object(pseudo)
                       .add_object(tcp)
                       .add(options_bytes)
                       .add(segment.payload[0])
                       .add(segment.payload[1])
                       .value();
  }
  headers.add(tcp);
  headers.add(options_bytes);
  if (payload > segment_size) {
    offload.segmentation =
        key.far.is_v4() ? FrameOffload::Segmentation::kTcp4 : FrameOffload::Segmentation::kTcp6;
    offload.header_size = static_cast<uint16_t>(headers.size());
    offload.segment_size = segment_size;
  }
  const std::array<std::span<const std::byte>, 3> pieces = {headers.bytes(), segment.payload[0],
                                                            segment.payload[1]};
  const size_t count = !segment.payload[1].empty() ? 3 : payload > 0 ? 2 : 1;
  return send(std::span(pieces).first(count), offload);
}

bool Link::send_udp(const IpAddress& source, uint16_t source_port, const IpAddress& destination,
                    uint16_t destination_port, std::span<const std::byte> payload) {
  const size_t length = sizeof(wire::Udp) + payload.size();
  Headers headers(source, destination, wire::kProtocolUdp, length);
  wire::Udp udp{.source_port = source_port,
                .destination_port = destination_port,
                .length = static_cast<uint16_t>(length),
                .checksum = 0};
  const uint16_t pseudo = pseudo_header_sum(source, destination, wire::kProtocolUdp, length);
  const uint16_t sum = Checksum().add_object(pseudo).add_object(udp).add(payload).value();
  udp.checksum = sum == 0 ? uint16_t{0xffff} : sum;  // 0 would say that there is none
  headers.add(udp);
  const std::array<std::span<const std::byte>, 2> pieces = {headers.bytes(), payload};
  return send(pieces);
}

bool Link::send_icmp(const IpAddress& destination, uint8_t type, uint8_t code, uint32_t rest,
                     std::span<const std::byte> payload) {
  const bool is_v4 = destination.is_v4();
  const IpAddress& source = is_v4 ? kGatewayAddress : kGatewayAddress6;
  const uint8_t protocol = is_v4 ? wire::kProtocolIcmp : wire::kProtocolIcmp6;
  const size_t length = sizeof(wire::Icmp) + payload.size();
  Headers headers(source, destination, protocol, length);
  wire::Icmp icmp{.type = type, .code = code, .checksum = 0, .rest = rest};
  const uint16_t pseudo =
      is_v4 ? uint16_t{0} : pseudo_header_sum(source, destination, protocol, length);
  icmp.checksum = Checksum().add_object(pseudo).add_object(icmp).add(payload).value();
  headers.add(icmp);
  const std::array<std::span<const std::byte>, 2> pieces = {headers.bytes(), payload};
  return send(pieces);
}

bool Link::send_neighbor_advertisement(const IpAddress& destination) {
  // Of a router, solicited, overriding what was known; the option is its MAC address.
  constexpr uint32_t kFlags = 0xe0000000;
  struct {
    std::array<uint8_t, 16> target = protocol::guest_network::kGateway6;
    uint8_t option = 2;
    uint8_t option_size = 1;  // in units of 8 bytes
    MacAddress mac = kGatewayMac;
  } const payload;
  static_assert(sizeof payload == 24);
  return send_icmp(destination, wire::kNeighborAdvertisement, 0, kFlags, bytes_of(payload));
}

bool Link::send_arp_reply(const ArpMessage& request) {
  const wire::Ethernet ethernet{
      .destination = kGuestMac, .source = kGatewayMac, .type = wire::kTypeArp};
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
