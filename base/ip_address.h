// IpAddress: an address of IP version 4 or 6, as a value.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace hutch {

class IpAddress {
 public:
  // The unspecified address of version 4.
  constexpr IpAddress() = default;
  // `value` as a number: 10.0.2.2 is 0x0a000202.
  static constexpr IpAddress v4(uint32_t value) {
    IpAddress address;
    for (unsigned i = 0; i < 4; i++)
      address.bytes_[i] = static_cast<uint8_t>(value >> (24 - 8 * i));
    return address;
  }
  static constexpr IpAddress v4(uint8_t a, uint8_t b, uint8_t c, uint8_t d) {
    return v4(static_cast<uint32_t>(a) << 24 | static_cast<uint32_t>(b) << 16 |
              static_cast<uint32_t>(c) << 8 | d);
  }
  // In the order of the wire.
  static constexpr IpAddress v6(const std::array<uint8_t, 16>& bytes) {
    IpAddress address;
    address.bytes_ = bytes;
    address.is_v6_ = true;
    return address;
  }

  constexpr bool is_v4() const { return !is_v6_; }
  constexpr bool is_v6() const { return is_v6_; }
  // Of a version 4 address, the number that v4() takes.
  constexpr uint32_t v4_value() const {
    return static_cast<uint32_t>(bytes_[0]) << 24 | static_cast<uint32_t>(bytes_[1]) << 16 |
           static_cast<uint32_t>(bytes_[2]) << 8 | bytes_[3];
  }
  // In the order of the wire: 4 or 16 bytes.
  constexpr std::span<const uint8_t> bytes() const {
    return std::span(bytes_).first(is_v6_ ? 16 : 4);
  }
  // As a person writes it.
  std::string text() const;

  friend constexpr auto operator<=>(const IpAddress&, const IpAddress&) = default;

 private:
  bool is_v6_ = false;
  std::array<uint8_t, 16> bytes_{};  // behind the first four: zero, in version 4
};

}  // namespace hutch
