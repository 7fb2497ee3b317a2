// Little-endian integers as they lie in guest memory, files and messages.
//
// A wire structure is a struct of these: trivially copyable, without padding, at any alignment, and
// the same on every host. Reading a field converts; nothing is ever cast in place.
#pragma once

#include <bit>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace hutch {

template <std::unsigned_integral T>
class LittleEndian {
 public:
  LittleEndian() = default;
  constexpr LittleEndian(T value) {  // NOLINT: conversion is the point
    for (unsigned i = 0; i < sizeof(T); i++) bytes_[i] = static_cast<uint8_t>(value >> (8 * i));
  }
  constexpr operator T() const {  // NOLINT
    T value = 0;
    for (unsigned i = 0; i < sizeof(T); i++)
      value = static_cast<T>(value | static_cast<T>(static_cast<T>(bytes_[i]) << (8 * i)));
    return value;
  }

 private:
  uint8_t bytes_[sizeof(T)];
};

using le16 = LittleEndian<uint16_t>;
using le32 = LittleEndian<uint32_t>;
using le64 = LittleEndian<uint64_t>;
static_assert(sizeof(le16) == 2 && sizeof(le32) == 4 && sizeof(le64) == 8 && alignof(le64) == 1);
static_assert(std::is_trivially_copyable_v<le64>);

}  // namespace hutch
