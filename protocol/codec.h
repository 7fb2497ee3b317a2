// Encoder and Decoder: little-endian fields one after another, shared by all messages.
//
// A string or byte field is a 32-bit length and that many bytes; a list is a 32-bit count and its
// elements. A Decoder never reads past its input and never allocates more than the input holds:
// after the first fault every further read gives an empty value, and finish() reports it once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace hutch::protocol {

class Encoder {
 public:
  Encoder& u8(uint8_t value);
  Encoder& u16(uint16_t value);
  Encoder& u32(uint32_t value);
  Encoder& u64(uint64_t value);
  Encoder& string(std::string_view text);
  Encoder& strings(std::span<const std::string> list);
  // Bytes without a length in front: only as the last field.
  Encoder& rest(std::span<const std::byte> bytes);
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  void append(const void* data, size_t size);
  std::vector<std::byte> bytes_;
};

class Decoder {
 public:
  // `bytes` must outlive the Decoder and stay as it is.
  explicit Decoder(std::span<const std::byte> bytes) : bytes_(bytes) {}

  uint8_t u8();
  uint16_t u16();
  uint32_t u32();
  uint64_t u64();
  std::string string();
  std::vector<std::string> strings();
  std::span<const std::byte> rest();

  // An error when a field ran past the end or bytes are left over. `what` names the message.
  Result<void> finish(std::string_view what) const;

 private:
  bool take(void* data, size_t size);
  std::span<const std::byte> bytes_;
  bool failed_ = false;
};

}  // namespace hutch::protocol
