#include "snapshot/fields.h"

#include <algorithm>
#include <array>

#include "base/wire.h"

namespace hutch::snapshot {
namespace {

constexpr std::array<char, 8> kMagic{'H', 'U', 'T', 'C', 'H', 'V', 'M', 'S'};

struct FileHeader {
  std::array<char, 8> magic;
  le32 version;
  le32 reserved;
  le64 size;
  le64 hash;
};
static_assert(sizeof(FileHeader) == 32);

struct FieldHeader {
  le32 number;
  le32 size;
};

void append(std::vector<std::byte>& to, std::span<const std::byte> bytes) {
  to.insert(to.end(), bytes.begin(), bytes.end());
}

template <typename T>
std::span<const std::byte> bytes_of(const T& object) {
  return std::as_bytes(std::span(&object, 1));
}

uint64_t hash_of(FileHeader header, std::span<const std::byte> body, const Key& key) {
  header.hash = 0;
  std::vector<std::byte> all;
  all.reserve(sizeof header + body.size());
  append(all, bytes_of(header));
  append(all, body);
  return siphash(key, all);
}

}  // namespace

FieldWriter& FieldWriter::bytes(uint32_t number, std::span<const std::byte> value) {
  append(body_, bytes_of(FieldHeader{number, static_cast<uint32_t>(value.size())}));
  append(body_, value);
  return *this;
}

FieldWriter& FieldWriter::u64(uint32_t number, uint64_t value) {
  return bytes(number, bytes_of(le64(value)));
}

FieldWriter& FieldWriter::text(uint32_t number, std::string_view value) {
  return bytes(number, std::as_bytes(std::span(value)));
}

FieldWriter& FieldWriter::group(uint32_t number, const FieldWriter& fields) {
  return bytes(number, fields.body());
}

Result<Fields> Fields::parse(std::span<const std::byte> body) {
  Fields fields;
  while (!body.empty()) {
    FieldHeader header;
    if (body.size() < sizeof header) return fail("half of a field at the end");
    std::memcpy(&header, body.data(), sizeof header);
    body = body.subspan(sizeof header);
    if (header.size > body.size())
      return fail(fmt::format("field {} is cut short", static_cast<uint32_t>(header.number)));
    fields.fields_.push_back({header.number, body.first(header.size)});
    body = body.subspan(header.size);
  }
  return fields;
}

const Fields::Field* Fields::find(uint32_t number) const {
  auto found = std::find_if(fields_.begin(), fields_.end(),
                            [&](const Field& field) { return field.number == number; });
  return found == fields_.end() ? nullptr : &*found;
}

Result<std::span<const std::byte>> Fields::bytes(uint32_t number) const {
  const Field* field = find(number);
  if (field == nullptr) return fail(fmt::format("field {} is missing", number));
  return field->value;
}

Result<std::span<const std::byte>> Fields::sized(uint32_t number, size_t size) const {
  std::span<const std::byte> value = TRY(bytes(number));
  if (value.size() != size)
    return fail(fmt::format("field {} has {} bytes instead of {}", number, value.size(), size));
  return value;
}

Result<uint64_t> Fields::u64(uint32_t number) const {
  return TRY(object<le64>(number));
}

Result<uint64_t> Fields::u64(uint32_t number, uint64_t most) const {
  uint64_t value = TRY(u64(number));
  if (value > most) return fail(fmt::format("field {} is {}, at most {}", number, value, most));
  return value;
}

Result<std::string> Fields::text(uint32_t number) const {
  std::span<const std::byte> value = TRY(bytes(number));
  return std::string(reinterpret_cast<const char*>(value.data()), value.size());
}

Result<Fields> Fields::group(uint32_t number) const {
  return parse(TRY(bytes(number)));
}

Result<std::vector<Fields>> Fields::groups(uint32_t number) const {
  std::vector<Fields> result;
  for (const Field& field : fields_)
    if (field.number == number) result.push_back(TRY(parse(field.value)));
  return result;
}

std::vector<std::byte> seal(const FieldWriter& fields, const Key& key) {
  return seal_body(fields.body(), key);
}

std::vector<std::byte> seal_body(std::span<const std::byte> body, const Key& key) {
  FileHeader header{kMagic, kVersion, 0, body.size(), 0};
  header.hash = hash_of(header, body, key);
  std::vector<std::byte> file;
  append(file, bytes_of(header));
  append(file, body);
  return file;
}

Result<std::span<const std::byte>> open_sealed(std::span<const std::byte> file, const Key& key) {
  FileHeader header;
  if (file.size() < sizeof header) return fail("it is too short to be a saved machine");
  std::memcpy(&header, file.data(), sizeof header);
  if (header.magic != kMagic) return fail("it is not a saved machine");
  if (header.version != kVersion)
    return fail(fmt::format("its format is version {}, this program reads {}",
                            static_cast<uint32_t>(header.version), kVersion),
                "restore it with the program that saved it");
  std::span<const std::byte> body = file.subspan(sizeof header);
  if (header.size != body.size())
    return fail(fmt::format("it has {} bytes instead of {}: it was not written to its end",
                            body.size(), static_cast<uint64_t>(header.size)));
  if (header.hash != hash_of(header, body, key))
    return fail("its keyed hash is wrong: it was changed, or saved by another installation");
  return body;
}

}  // namespace hutch::snapshot
