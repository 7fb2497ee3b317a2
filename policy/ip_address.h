// IpAddress: an IPv4 or IPv6 address, its strict text form, and the floor: the addresses that no
// sandbox may reach whatever its policy says.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace hutch::policy {

class IpAddress {
 public:
  // 0.0.0.0
  IpAddress() = default;
  static IpAddress v4(std::array<uint8_t, 4> bytes);
  // In host byte order: 0x7f000001 is 127.0.0.1.
  static IpAddress v4(uint32_t value);
  static IpAddress v6(std::array<uint8_t, 16> bytes);

  // Four decimal numbers without leading zeros, or IPv6 as of RFC 4291 section 2.2 without a zone
  // and without brackets; nothing for all else that inet_aton would take (0x7f.1, 017.0.0.1, 127.1,
  // 2130706433).
  static std::optional<IpAddress> parse(std::string_view text);
  // IPv6 in lower case with the longest run of zeros left out (RFC 5952).
  std::string text() const;

  bool is_v4() const { return size_ == 4; }
  std::span<const uint8_t> bytes() const { return {bytes_.data(), size_}; }
  // Of an IPv4 address, in host byte order.
  uint32_t v4_value() const;
  auto operator<=>(const IpAddress&) const = default;

 private:
  std::array<uint8_t, 16> bytes_{};
  uint8_t size_ = 4;
};

// Why the floor keeps an address from every sandbox, in a word or two ("loopback", "private",
// "metadata", ...); nothing for an address of the open Internet. Addresses that carry an IPv4
// address inside (mapped, NAT64, 6to4, Teredo) are judged by that one, too. The addresses of this
// very host are not known here: whoever connects adds them.
const char* floor_reason(const IpAddress& address);

}  // namespace hutch::policy
