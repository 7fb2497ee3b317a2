// GuestAddress and GuestRange: guest-physical addresses that are not integers.
//
// The only arithmetic is checked arithmetic: a guest-controlled address plus a guest-controlled
// length must not wrap.
#pragma once

#include <compare>
#include <cstdint>
#include <optional>

namespace hutch {

class GuestAddress {
 public:
  constexpr GuestAddress() = default;
  explicit constexpr GuestAddress(uint64_t value) : value_(value) {}
  constexpr uint64_t value() const { return value_; }
  auto operator<=>(const GuestAddress&) const = default;

  // This address plus `bytes`, or nothing when that wraps.
  constexpr std::optional<GuestAddress> offset(uint64_t bytes) const {
    uint64_t sum = 0;
    if (__builtin_add_overflow(value_, bytes, &sum)) return std::nullopt;
    return GuestAddress(sum);
  }

 private:
  uint64_t value_ = 0;
};

// `size` bytes from `start`. May be empty; may be guest-controlled and lie anywhere.
struct GuestRange {
  GuestAddress start;
  uint64_t size = 0;

  // The first address behind the range, or nothing when the range passes the end of the address
  // space.
  constexpr std::optional<GuestAddress> end() const { return start.offset(size); }
  constexpr bool contains(GuestRange other) const {
    std::optional<GuestAddress> own_end = end();
    std::optional<GuestAddress> other_end = other.end();
    return own_end && other_end && other.start >= start && *other_end <= *own_end;
  }
  constexpr bool operator==(const GuestRange&) const = default;
};

}  // namespace hutch
