// Big-endian integers as they lie in packets: the network's counterpart of base/wire.h.
#pragma once

#include <concepts>
#include <cstdint>
#include <type_traits>

namespace hutch::net {

template <std::unsigned_integral T>
class BigEndian {
 public:
  BigEndian() = default;
  constexpr BigEndian(T value) {  // NOLINT: conversion is the point
    for (unsigned i = 0; i < sizeof(T); i++)
      bytes_[i] = static_cast<uint8_t>(value >> (8 * (sizeof(T) - 1 - i)));
  }
  constexpr operator T() const {  // NOLINT
    T value = 0;
    for (unsigned i = 0; i < sizeof(T); i++)
      value = static_cast<T>(static_cast<T>(value << 8) | bytes_[i]);
    return value;
  }

 private:
  uint8_t bytes_[sizeof(T)];
};

using be16 = BigEndian<uint16_t>;
using be32 = BigEndian<uint32_t>;
static_assert(sizeof(be16) == 2 && sizeof(be32) == 4 && alignof(be32) == 1);
static_assert(std::is_trivially_copyable_v<be32>);

}  // namespace hutch::net
