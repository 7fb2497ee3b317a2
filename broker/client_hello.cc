#include "broker/client_hello.h"

#include <cstdint>
#include <optional>
#include <unordered_set>
#include <vector>

namespace hutch::broker {
namespace {

constexpr uint8_t kHandshakeRecord = 22;
constexpr uint8_t kClientHelloMessage = 1;
constexpr size_t kRecordHead = 5;
constexpr size_t kMessageHead = 4;
constexpr size_t kMaxRecord = 1 << 14;
constexpr uint16_t kServerName = 0;
constexpr uint8_t kHostName = 0;

// Reads a message; what runs past the end makes all of it broken.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : left_(bytes) {}

  uint32_t number(size_t size) {
    uint32_t value = 0;
    for (std::byte byte : take(size)) value = value << 8 | std::to_integer<uint32_t>(byte);
    return value;
  }
  std::span<const std::byte> take(size_t size) {
    if (size > left_.size()) {
      broken_ = true;
      left_ = {};
      return {};
    }
    std::span<const std::byte> taken = left_.first(size);
    left_ = left_.subspan(size);
    return taken;
  }
  // A vector with its length, of `length_size` bytes, in front.
  Reader vector(size_t length_size) {
    Reader inner(take(number(length_size)));
    inner.broken_ = broken_;
    return inner;
  }
  bool at_end() const { return left_.empty(); }
  bool is_broken() const { return broken_; }

 private:
  std::span<const std::byte> left_;
  bool broken_ = false;
};

// The one host name of the extension; nothing when it is broken.
std::optional<std::string> read_server_name(Reader extension) {
  Reader names = extension.vector(2);
  if (!extension.at_end()) return std::nullopt;
  // "MUST NOT contain more than one name of the same name_type", and there is but one type.
  if (names.number(1) != kHostName) return std::nullopt;
  Reader name = names.vector(2);
  std::string text;
  while (!name.at_end()) text += static_cast<char>(name.number(1));
  if (extension.is_broken() || names.is_broken() || name.is_broken() || !names.at_end() ||
      text.empty())
    return std::nullopt;
  return text;
}

ClientHello broken() {
  return {ClientHello::State::kBroken, ""};
}

// Of a message whose head is there.
size_t message_size(std::span<const std::byte> message) {
  return kMessageHead + Reader(message.subspan(1)).number(3);
}

// Whether the beginning of a handshake message, of whose record `missing` bytes are still to come,
// cannot become a ClientHello that ends with its record: nothing may follow there.
bool message_fault(std::span<const std::byte> message, size_t missing) {
  if (!message.empty() && Reader(message).number(1) != kClientHelloMessage) return true;
  if (message.size() + missing > kMaxClientHello) return true;
  if (message.size() < kMessageHead) return false;
  size_t size = message_size(message);
  return size > kMaxClientHello || message.size() + missing > size;
}

ClientHello read_message(std::span<const std::byte> message) {
  Reader in(message);
  if (in.number(1) != 3) return broken();  // legacy_version, which is 3.3 in all that is in use
  in.take(1 + 32);                         // and random
  Reader session = in.vector(1);
  Reader suites = in.vector(2);
  Reader compression = in.vector(1);
  if (in.is_broken() || session.is_broken() || suites.is_broken() || compression.is_broken())
    return broken();
  ClientHello hello{ClientHello::State::kWhole, ""};
  if (in.at_end()) return hello;  // no extensions, so no name
  Reader extensions = in.vector(2);
  if (!in.at_end()) return broken();
  std::unordered_set<uint32_t> seen;
  while (!extensions.at_end()) {
    uint32_t type = extensions.number(2);
    Reader extension = extensions.vector(2);
    if (extensions.is_broken() || !seen.insert(type).second) return broken();
    if (type != kServerName) continue;
    std::optional<std::string> name = read_server_name(extension);
    if (!name) return broken();
    hello.server_name = *std::move(name);
  }
  return in.is_broken() || extensions.is_broken() ? broken() : hello;
}

}  // namespace

ClientHello read_client_hello(std::span<const std::byte> bytes) {
  // The handshake message, put together from the records that there are.
  std::vector<std::byte> message;
  for (;;) {
    if (message_fault(message, 0)) return broken();
    if (message.size() >= kMessageHead && message.size() == message_size(message)) break;
    // What is there of a record's head is looked at: nothing else than TLS is waited for.
    if (!bytes.empty() && std::to_integer<uint8_t>(bytes[0]) != kHandshakeRecord) return broken();
    if (bytes.size() > 1 && std::to_integer<uint8_t>(bytes[1]) != 3) return broken();
    if (bytes.size() < kRecordHead) return {};
    size_t length = std::to_integer<size_t>(bytes[3]) << 8 | std::to_integer<size_t>(bytes[4]);
    // "Zero-length fragments of Handshake types" are not allowed.
    if (length == 0 || length > kMaxRecord) return broken();
    bytes = bytes.subspan(kRecordHead);
    std::span<const std::byte> part = bytes.first(std::min(length, bytes.size()));
    message.insert(message.end(), part.begin(), part.end());
    if (part.size() < length) {
      // The rest of this record is still to come; what is there may tell already.
      return message_fault(message, length - part.size()) ? broken() : ClientHello{};
    }
    bytes = bytes.subspan(part.size());
  }
  return read_message(std::span(message).subspan(kMessageHead));
}

}  // namespace hutch::broker
