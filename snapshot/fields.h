// Numbered fields: how a saved machine lies in its file.
//
//   file    "HUTCHVMS", le32 version (1), le32 zero, le64 size of the body, le64 keyed hash of all
//           of the file with zeros in the hash's place; the body
//   body    fields, one after another
//   field   le32 number, le32 size, `size` bytes: a value, or fields again (a group)
//
// A reader skips numbers that it does not know, so fields can be added; one that changes its
// meaning gets a new number. What a file holds is not trusted, whatever its hash says: every size
// is checked against what is there, and nothing is allocated for a size that is only claimed.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/result.h"
#include "snapshot/siphash.h"

namespace hutch::snapshot {

constexpr uint32_t kVersion = 1;
constexpr size_t kMaxFile = 16 << 20;

class FieldWriter {
 public:
  FieldWriter& u64(uint32_t number, uint64_t value);
  FieldWriter& bytes(uint32_t number, std::span<const std::byte> value);
  FieldWriter& text(uint32_t number, std::string_view value);
  FieldWriter& group(uint32_t number, const FieldWriter& fields);
  template <typename T>
  FieldWriter& object(uint32_t number, const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    return bytes(number, std::as_bytes(std::span(&value, 1)));
  }
  const std::vector<std::byte>& body() const { return body_; }

 private:
  std::vector<std::byte> body_;
};

// The fields of a body or group; points into its bytes.
class Fields {
 public:
  // Errors: a field that runs past the end.
  static Result<Fields> parse(std::span<const std::byte> body);

  bool has(uint32_t number) const { return find(number) != nullptr; }
  // The first field of that number; errors name it when there is none, or it has another size.
  Result<uint64_t> u64(uint32_t number) const;
  // The same, at most `most`.
  Result<uint64_t> u64(uint32_t number, uint64_t most) const;
  Result<std::span<const std::byte>> bytes(uint32_t number) const;
  Result<std::string> text(uint32_t number) const;
  Result<Fields> group(uint32_t number) const;
  template <typename T>
  Result<T> object(uint32_t number) const {
    static_assert(std::is_trivially_copyable_v<T>);
    std::span<const std::byte> value = TRY(sized(number, sizeof(T)));
    T result;
    std::memcpy(&result, value.data(), sizeof result);
    return result;
  }
  // All groups of that number, in order.
  Result<std::vector<Fields>> groups(uint32_t number) const;

 private:
  struct Field {
    uint32_t number = 0;
    std::span<const std::byte> value;
  };
  const Field* find(uint32_t number) const;
  Result<std::span<const std::byte>> sized(uint32_t number, size_t size) const;
  std::vector<Field> fields_;
};

// A whole file of these fields.
std::vector<std::byte> seal(const FieldWriter& fields, const Key& key);
std::vector<std::byte> seal_body(std::span<const std::byte> body, const Key& key);
// The body of a file. Errors: not such a file, another version, cut short, changed, another's.
Result<std::span<const std::byte>> open_sealed(std::span<const std::byte> file, const Key& key);

}  // namespace hutch::snapshot
