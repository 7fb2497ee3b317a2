// Checksum: the Internet checksum (RFC 1071) over pieces of any length.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>

namespace hutch::net {

// The sum is kept in the host's byte order of 16-bit words, which is right in any (RFC 1071
// section 2 (B)): what value() returns is stored as it is, with memcpy.
class Checksum {
 public:
  Checksum& add(std::span<const std::byte> bytes) {
    uint64_t sum = 0;
    while (bytes.size() >= 4) {
      uint32_t word;
      std::memcpy(&word, bytes.data(), 4);
      sum += word;
      bytes = bytes.subspan(4);
    }
    uint32_t last = 0;
    if (!bytes.empty()) std::memcpy(&last, bytes.data(), bytes.size());
    sum += last;
    const uint16_t part = fold(sum);
    // A piece that begins at an odd offset has its bytes in the other halves of the words.
    sum_ += is_odd_ ? static_cast<uint16_t>(part << 8 | part >> 8) : part;
    is_odd_ ^= (bytes.size() & 1) != 0;
    return *this;
  }
  template <typename T>
  Checksum& add_object(const T& object) requires std::has_unique_object_representations_v<T> {
    return add(std::as_bytes(std::span(&object, 1)));
  }

  // The sum itself: what a checksum field holds whose rest is left to the device.
  uint16_t partial() const { return fold(sum_); }
  // Its complement: what the field holds in the end. Over a whole with a right field: 0.
  uint16_t value() const { return static_cast<uint16_t>(~fold(sum_)); }

 private:
  static uint16_t fold(uint64_t sum) {
    while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
    return static_cast<uint16_t>(sum);
  }

  uint64_t sum_ = 0;
  bool is_odd_ = false;
};

}  // namespace hutch::net
