#include "protocol/codec.h"

#include <cstring>

#include "base/wire.h"

namespace hutch::protocol {

void Encoder::append(const void* data, size_t size) {
  const auto* first = static_cast<const std::byte*>(data);
  bytes_.insert(bytes_.end(), first, first + size);
}

Encoder& Encoder::u8(uint8_t value) {
  append(&value, sizeof value);
  return *this;
}

Encoder& Encoder::u16(uint16_t value) {
  le16 wire = value;
  append(&wire, sizeof wire);
  return *this;
}

Encoder& Encoder::u32(uint32_t value) {
  le32 wire = value;
  append(&wire, sizeof wire);
  return *this;
}

Encoder& Encoder::u64(uint64_t value) {
  le64 wire = value;
  append(&wire, sizeof wire);
  return *this;
}

Encoder& Encoder::string(std::string_view text) {
  u32(static_cast<uint32_t>(text.size()));
  append(text.data(), text.size());
  return *this;
}

Encoder& Encoder::strings(std::span<const std::string> list) {
  u32(static_cast<uint32_t>(list.size()));
  for (const std::string& text : list) string(text);
  return *this;
}

Encoder& Encoder::rest(std::span<const std::byte> bytes) {
  append(bytes.data(), bytes.size());
  return *this;
}

bool Decoder::take(void* data, size_t size) {
  if (failed_ || size > bytes_.size()) {
    failed_ = true;
    return false;
  }
  if (size > 0) std::memcpy(data, bytes_.data(), size);
  bytes_ = bytes_.subspan(size);
  return true;
}

uint8_t Decoder::u8() {
  uint8_t value = 0;
  take(&value, sizeof value);
  return value;
}

uint16_t Decoder::u16() {
  le16 value = 0;
  take(&value, sizeof value);
  return value;
}

uint32_t Decoder::u32() {
  le32 value = 0;
  take(&value, sizeof value);
  return value;
}

uint64_t Decoder::u64() {
  le64 value = 0;
  take(&value, sizeof value);
  return value;
}

std::string Decoder::string() {
  uint32_t size = u32();
  if (failed_ || size > bytes_.size()) {
    failed_ = true;
    return {};
  }
  std::string text(reinterpret_cast<const char*>(bytes_.data()), size);
  bytes_ = bytes_.subspan(size);
  return text;
}

std::vector<std::string> Decoder::strings() {
  uint32_t count = u32();
  std::vector<std::string> list;
  // Each element takes at least its length field, so a lying count cannot make this long.
  for (uint32_t i = 0; i < count && !failed_; i++) list.push_back(string());
  if (failed_) list.clear();
  return list;
}

std::span<const std::byte> Decoder::rest() {
  if (failed_) return {};
  std::span<const std::byte> all = bytes_;
  bytes_ = {};
  return all;
}

Result<void> Decoder::finish(std::string_view what) const {
  if (failed_) return fail(fmt::format("{} is shorter than its fields", what));
  if (!bytes_.empty())
    return fail(fmt::format("{} has {} bytes behind its last field", what, bytes_.size()));
  return {};
}

}  // namespace hutch::protocol
