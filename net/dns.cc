#include "net/dns.h"

#include <optional>
#include <string>

#include "policy/host_name.h"
#include "protocol/guest_network.h"

namespace hutch::net {
namespace {

constexpr size_t kHeader = 12;
constexpr size_t kMaxLabel = 63;
constexpr size_t kMaxWireName = 255;

// RFC 1035 section 4.1.1, RFC 6891 section 6.1.3.
constexpr uint8_t kFormatError = 1;
constexpr uint8_t kServerFailure = 2;
constexpr uint8_t kNoSuchName = 3;
constexpr uint8_t kNotImplemented = 4;
constexpr uint8_t kBadVersion = 16;

constexpr uint16_t kTypeA = 1;
constexpr uint16_t kTypeAaaa = 28;  // RFC 3596
constexpr uint16_t kTypeOpt = 41;
constexpr uint16_t kClassInternet = 1;
constexpr uint16_t kOptionError = 15;    // RFC 8914
constexpr uint16_t kErrorBlocked = 15;   // "Blocked": by the operator's policy
constexpr uint16_t kPayloadSize = 1232;  // what we say that we would take

// Reads a message; after its end everything is nothing.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  std::optional<uint8_t> u8() {
    if (at_ >= bytes_.size()) return std::nullopt;
    return std::to_integer<uint8_t>(bytes_[at_++]);
  }
  std::optional<uint16_t> u16() {
    auto high = u8(), low = u8();
    if (!high || !low) return std::nullopt;
    return static_cast<uint16_t>(*high << 8 | *low);
  }
  std::optional<uint32_t> u32() {
    auto high = u16(), low = u16();
    if (!high || !low) return std::nullopt;
    return static_cast<uint32_t>(*high) << 16 | *low;
  }
  bool skip(size_t size) {
    if (bytes_.size() - at_ < size) return false;
    at_ += size;
    return true;
  }
  size_t position() const { return at_; }

  // A name without compression, as it stands in a question; as text with a dot behind each label.
  // A dot inside a label is no host's name and becomes a character that none has.
  std::optional<std::string> name() {
    std::string text;
    size_t start = at_;
    for (;;) {
      std::optional<uint8_t> size = u8();
      if (!size || *size > kMaxLabel) return std::nullopt;
      if (*size == 0) return text;
      for (uint8_t i = 0; i < *size; i++) {
        std::optional<uint8_t> byte = u8();
        if (!byte) return std::nullopt;
        text += *byte == '.' ? '\0' : static_cast<char>(*byte);
      }
      text += '.';
      if (at_ - start > kMaxWireName - 1) return std::nullopt;
    }
  }

  // Of a record behind the question, which may point back: past it.
  bool skip_name() {
    for (;;) {
      std::optional<uint8_t> size = u8();
      if (!size) return false;
      if (*size == 0) return true;
      if ((*size & 0xc0) == 0xc0) return skip(1);
      if (*size > kMaxLabel || !skip(*size)) return false;
    }
  }

 private:
  std::span<const std::byte> bytes_;
  size_t at_ = 0;
};

class Writer {
 public:
  Writer& u8(uint8_t value) {
    bytes_.push_back(std::byte{value});
    return *this;
  }
  Writer& u16(uint16_t value) {
    return u8(static_cast<uint8_t>(value >> 8)).u8(static_cast<uint8_t>(value));
  }
  Writer& u32(uint32_t value) {
    return u16(static_cast<uint16_t>(value >> 16)).u16(static_cast<uint16_t>(value));
  }
  Writer& bytes(std::span<const std::byte> more) {
    bytes_.insert(bytes_.end(), more.begin(), more.end());
    return *this;
  }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

struct Query {
  uint16_t id = 0;
  bool recursion_desired = false;
  std::span<const std::byte> question;  // name, type and class as they came; empty: not readable
  std::string name;
  uint16_t type = 0;
  bool has_opt = false;
  uint8_t fault = 0;  // the response code that it deserves for its form
};

// The OPT record among those behind the question, RFC 6891 section 6.1: at most one.
uint8_t read_records(Reader& reader, uint32_t count, Query& query) {
  for (uint32_t i = 0; i < count; i++) {
    if (!reader.skip_name()) return kFormatError;
    auto type = reader.u16(), payload = reader.u16();
    auto time = reader.u32();
    auto size = reader.u16();
    if (!type || !payload || !time || !size || !reader.skip(*size)) return kFormatError;
    if (*type != kTypeOpt) continue;
    if (query.has_opt) return kFormatError;
    query.has_opt = true;
    uint8_t version = static_cast<uint8_t>(*time >> 16);
    if (version != 0) return kBadVersion;
  }
  return 0;
}

// Nothing: what came is no query at all, and an answer might start a quarrel.
std::optional<Query> read_query(std::span<const std::byte> message) {
  Reader reader(message);
  Query query;
  auto id = reader.u16(), flags = reader.u16(), questions = reader.u16(), answers = reader.u16(),
       authorities = reader.u16(), additionals = reader.u16();
  if (!additionals || (*flags & 0x8000) != 0) return std::nullopt;
  query.id = *id;
  query.recursion_desired = (*flags & 0x0100) != 0;
  if ((*flags & 0x7800) != 0) {
    query.fault = kNotImplemented;
    return query;
  }
  query.fault = kFormatError;
  if (*questions != 1) return query;
  std::optional<std::string> name = reader.name();
  auto type = reader.u16(), klass = reader.u16();
  if (!name || !type || !klass) return query;
  query.question = message.subspan(kHeader, reader.position() - kHeader);
  query.name = *std::move(name);
  query.type = *type;
  query.fault = *klass == kClassInternet ? 0 : kNotImplemented;
  if (query.fault == 0)
    query.fault = read_records(reader, uint32_t{*answers} + *authorities + *additionals, query);
  return query;
}

std::vector<std::byte> write_answer(const Query& query, uint8_t code,
                                    std::optional<uint32_t> address) {
  Writer writer;
  // A response; recursion is there; the low four bits of the code.
  uint16_t flags = static_cast<uint16_t>(0x8000 | (query.recursion_desired ? 0x0100 : 0) | 0x0080 |
                                         (code & 0x0f));
  writer.u16(query.id).u16(flags).u16(query.question.empty() ? 0 : 1);
  writer.u16(address ? 1 : 0).u16(0).u16(query.has_opt ? 1 : 0);
  writer.bytes(query.question);
  if (address) {
    // The name is the question's, which stands behind the header.
    writer.u16(0xc000 | kHeader).u16(query.type).u16(kClassInternet).u32(Dns::kTimeToLive);
    if (query.type == kTypeA) {
      writer.u16(4).u32(*address);
    } else {
      const auto names = std::as_bytes(std::span(protocol::guest_network::kNames6));
      writer.u16(16).bytes(names.first(12)).u32(*address);
    }
  }
  if (query.has_opt) {
    bool blocked = code == kNoSuchName;
    writer.u8(0).u16(kTypeOpt).u16(kPayloadSize).u32(static_cast<uint32_t>(code >> 4) << 24);
    writer.u16(blocked ? 6 : 0);
    if (blocked) writer.u16(kOptionError).u16(2).u16(kErrorBlocked);
  }
  return writer.take();
}

}  // namespace

Dns::Dns(const policy::Policy& policy, NameTable& table,
         std::function<void(const std::string& name)> not_there, bool ipv6)
    : policy_(policy), table_(table), not_there_(std::move(not_there)), ipv6_(ipv6) {}

std::vector<std::byte> Dns::answer(std::span<const std::byte> message, uint64_t now_ns) {
  std::optional<Query> query = read_query(message);
  if (!query || query->fault != 0) counters_.malformed++;
  if (!query) return {};
  if (query->fault != 0) return write_answer(*query, query->fault, std::nullopt);
  std::optional<std::string> name = policy::canonical_host_name(query->name);
  if (!name || !policy_.knows(*name)) {
    counters_.not_there++;
    if (name && not_there_) not_there_(*name);
    return write_answer(*query, kNoSuchName, std::nullopt);
  }
  if (query->type != kTypeA && !(ipv6_ && query->type == kTypeAaaa)) {
    counters_.no_data++;
    return write_answer(*query, 0, std::nullopt);
  }
  std::optional<IpAddress> address;
  if (table_.has(*name) || new_names_.take(1, now_ns) == 1) address = table_.assign(*name, now_ns);
  if (!address) {
    counters_.throttled++;
    return write_answer(*query, kServerFailure, std::nullopt);
  }
  counters_.answered++;
  return write_answer(*query, 0, address->v4_value());
}

}  // namespace hutch::net
