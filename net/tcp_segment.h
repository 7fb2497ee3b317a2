// TcpSegment: a TCP segment (RFC 9293 section 3.1) apart from its wire form, without addresses.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace hutch::net {

namespace tcp {
inline constexpr uint8_t kFin = 0x01;
inline constexpr uint8_t kSyn = 0x02;
inline constexpr uint8_t kRst = 0x04;
inline constexpr uint8_t kPsh = 0x08;
inline constexpr uint8_t kAck = 0x10;
inline constexpr uint8_t kUrg = 0x20;
inline constexpr uint8_t kEce = 0x40;
inline constexpr uint8_t kCwr = 0x80;
}  // namespace tcp

// From the guest all of it is guest-controlled, and the payload is one piece.
struct TcpSegment {
  uint32_t sequence = 0;
  uint32_t acknowledgement = 0;
  uint8_t flags = 0;
  uint16_t window = 0;
  std::optional<uint16_t> mss;  // the options; only ever in a SYN
  std::optional<uint8_t> window_scale;
  std::array<std::span<const std::byte>, 2> payload{};

  bool has(uint8_t wanted) const { return (flags & wanted) == wanted; }
  size_t payload_size() const { return payload[0].size() + payload[1].size(); }
  // In sequence numbers: SYN and FIN take one each.
  uint32_t length() const {
    return static_cast<uint32_t>(payload_size()) + (has(tcp::kSyn) ? 1 : 0) +
           (has(tcp::kFin) ? 1 : 0);
  }
};

// How far `to` lies behind `from`, in sequence numbers; negative: before it.
constexpr int32_t distance(uint32_t from, uint32_t to) {
  return static_cast<int32_t>(to - from);
}

}  // namespace hutch::net
