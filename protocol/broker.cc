#include "protocol/broker.h"

#include "protocol/codec.h"

namespace hutch::protocol::broker {
namespace {

constexpr size_t kMaxName = 253;
constexpr size_t kMaxAddress = 45;

Encoder begin(MessageType type, uint32_t flow) {
  Encoder out;
  out.u8(static_cast<uint8_t>(type)).u32(flow);
  return out;
}

// A Decoder behind the type byte; an error when the packet is of another type.
Result<Decoder> open(std::span<const std::byte> bytes, MessageType type) {
  if (TRY(type_of(bytes)) != type) return fail("a message of another type than expected");
  return Decoder(bytes.subspan(1));
}

}  // namespace

const char* name(Reason reason) {
  switch (reason) {
    case Reason::kPolicy:
      return "policy";
    case Reason::kNotResolved:
      return "not_resolved";
    case Reason::kFloor:
      return "floor";
    case Reason::kNotReachable:
      return "not_reachable";
    case Reason::kProtocol:
      return "protocol";
    case Reason::kLimit:
      return "limit";
    case Reason::kPolicyChanged:
      return "policy_changed";
  }
  return "unknown";
}

std::vector<std::byte> encode(const Open& message) {
  return begin(MessageType::kOpen, message.flow)
      .string(message.name)
      .string(message.address)
      .u16(message.port)
      .take();
}

std::vector<std::byte> encode(const First& message) {
  return begin(MessageType::kFirst, message.flow).rest(message.bytes).take();
}

std::vector<std::byte> encode(const Close& message) {
  return begin(MessageType::kClose, message.flow).u64(message.sent).u64(message.received).take();
}

std::vector<std::byte> encode(const Denied& message) {
  return Encoder()
      .u8(static_cast<uint8_t>(MessageType::kDenied))
      .string(message.name)
      .string(message.address)
      .u16(message.port)
      .take();
}

std::vector<std::byte> encode(const Connected& message) {
  return begin(MessageType::kConnected, message.flow).take();
}

std::vector<std::byte> encode(const Ready& message) {
  return begin(MessageType::kReady, message.flow).u32(message.consumed).take();
}

std::vector<std::byte> encode(const Refused& message) {
  return begin(MessageType::kRefused, message.flow).u8(static_cast<uint8_t>(message.reason)).take();
}

std::vector<std::byte> encode(const Policy& message) {
  return Encoder()
      .u8(static_cast<uint8_t>(MessageType::kPolicy))
      .u8(message.allows_all)
      .strings(message.patterns)
      .take();
}

std::vector<std::byte> encode(const Configure& message) {
  return Encoder()
      .u8(static_cast<uint8_t>(MessageType::kConfigure))
      .u8(message.policy.allows_all)
      .strings(message.policy.patterns)
      .strings(message.opened)
      .u8(message.ipv6)
      .strings(message.servers)
      .u8(message.log.is_open())
      .u64(message.log_limit)
      .take();
}

Result<MessageType> type_of(std::span<const std::byte> bytes) {
  uint8_t value = Decoder(bytes).u8();
  switch (static_cast<MessageType>(value)) {
    case MessageType::kOpen:
    case MessageType::kFirst:
    case MessageType::kClose:
    case MessageType::kDenied:
    case MessageType::kConnected:
    case MessageType::kReady:
    case MessageType::kRefused:
    case MessageType::kConfigure:
    case MessageType::kPolicy:
      return static_cast<MessageType>(value);
  }
  return fail(fmt::format("a message of the unknown type {}", value));
}

template <>
Result<Open> decode(std::span<const std::byte> bytes) {
  Decoder in = TRY(open(bytes, MessageType::kOpen));
  Open message;
  message.flow = in.u32();
  message.name = in.string();
  message.address = in.string();
  message.port = in.u16();
  TRY(in.finish("Open"));
  if (message.port == 0) return fail("Open with port 0");
  if (message.name.size() > kMaxName || message.address.size() > kMaxAddress)
    return fail("Open with too long a name or address");
  return message;
}

template <>
Result<First> decode(std::span<const std::byte> bytes) {
  Decoder in = TRY(open(bytes, MessageType::kFirst));
  First message;
  message.flow = in.u32();
  message.bytes = in.rest();
  TRY(in.finish("First"));
  if (message.bytes.size() > kMaxFirst)
    return fail(fmt::format("First with {} bytes", message.bytes.size()));
  return message;
}

template <>
Result<Close> decode(std::span<const std::byte> bytes) {
  Decoder in = TRY(open(bytes, MessageType::kClose));
  Close message;
  message.flow = in.u32();
  message.sent = in.u64();
  message.received = in.u64();
  TRY(in.finish("Close"));
  return message;
}

template <>
Result<Denied> decode(std::span<const std::byte> bytes) {
  Decoder in = TRY(open(bytes, MessageType::kDenied));
  Denied message;
  message.name = in.string();
  message.address = in.string();
  message.port = in.u16();
  TRY(in.finish("Denied"));
  if (message.name.size() > kMaxName || message.address.size() > kMaxAddress)
    return fail("Denied with too long a name or address");
  if (message.name.empty() == message.address.empty())
    return fail("Denied with neither or both of name and address");
  return message;
}

template <>
Result<Connected> decode(std::span<const std::byte> bytes) {
  Decoder in = TRY(open(bytes, MessageType::kConnected));
  Connected message;
  message.flow = in.u32();
  TRY(in.finish("Connected"));
  return message;
}

template <>
Result<Ready> decode(std::span<const std::byte> bytes) {
  Decoder in = TRY(open(bytes, MessageType::kReady));
  Ready message;
  message.flow = in.u32();
  message.consumed = in.u32();
  TRY(in.finish("Ready"));
  if (message.consumed > kMaxFirst) return fail("Ready with more bytes than there can be");
  return message;
}

template <>
Result<Policy> decode(std::span<const std::byte> bytes) {
  Decoder in = TRY(open(bytes, MessageType::kPolicy));
  Policy message;
  message.allows_all = in.u8() != 0;
  message.patterns = in.strings();
  TRY(in.finish("Policy"));
  return message;
}

Result<Configure> decode_configure(std::span<const std::byte> bytes, std::vector<Fd> fds) {
  Decoder in = TRY(open(bytes, MessageType::kConfigure));
  Configure message;
  message.policy.allows_all = in.u8() != 0;
  message.policy.patterns = in.strings();
  message.opened = in.strings();
  message.ipv6 = in.u8() != 0;
  message.servers = in.strings();
  bool has_log = in.u8() != 0;
  message.log_limit = in.u64();
  TRY(in.finish("Configure"));
  if (fds.size() != (has_log ? 2u : 1u))
    return fail(fmt::format("Configure with {} descriptors", fds.size()));
  message.vmm = std::move(fds[0]);
  if (has_log) message.log = std::move(fds[1]);
  return message;
}

template <>
Result<Refused> decode(std::span<const std::byte> bytes) {
  Decoder in = TRY(open(bytes, MessageType::kRefused));
  Refused message;
  message.flow = in.u32();
  uint8_t reason = in.u8();
  TRY(in.finish("Refused"));
  if (reason < static_cast<uint8_t>(Reason::kPolicy) ||
      reason > static_cast<uint8_t>(Reason::kPolicyChanged))
    return fail(fmt::format("Refused for the unknown reason {}", reason));
  message.reason = static_cast<Reason>(reason);
  return message;
}

}  // namespace hutch::protocol::broker
