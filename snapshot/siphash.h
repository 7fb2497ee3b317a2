// SipHash-2-4 (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012) with its result of
// 64 bits: a keyed hash that tells our own files from others'.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace hutch::snapshot {

using Key = std::array<std::byte, 16>;

uint64_t siphash(const Key& key, std::span<const std::byte> bytes);

}  // namespace hutch::snapshot
