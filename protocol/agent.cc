#include "protocol/agent.h"

#include <algorithm>
#include <cstring>

#include "protocol/codec.h"

namespace hutch::protocol::agent {
namespace {

bool is_known(uint8_t type) {
  return (type >= static_cast<uint8_t>(FrameType::kHello) &&
          type <= static_cast<uint8_t>(FrameType::kThaw)) ||
         (type >= static_cast<uint8_t>(FrameType::kHelloReply) &&
          type <= static_cast<uint8_t>(FrameType::kRenew));
}

Result<uint8_t> output_stream(uint8_t stream) {
  if (stream != 1 && stream != 2) return fail(fmt::format("there is no output stream {}", stream));
  return stream;
}

Result<bool> boolean(uint8_t value) {
  if (value > 1) return fail(fmt::format("{} is not a truth value", value));
  return value == 1;
}

// Text for a person that an agent sends.
constexpr size_t kMaxProblem = 1024;

Result<std::string> problem_text(std::string text) {
  if (text.size() > kMaxProblem)
    return fail(fmt::format("a problem told in more than {} bytes", kMaxProblem));
  return text;
}

bool is_digit(char letter) {
  return (letter >= '0' && letter <= '9') || (letter >= 'a' && letter <= 'f');
}

bool is_machine_id(std::string_view text) {
  return text.size() == 32 && std::all_of(text.begin(), text.end(), is_digit);
}

bool is_uuid(std::string_view text) {
  if (text.size() != 36) return false;
  for (size_t i = 0; i < text.size(); i++) {
    bool is_dash = i == 8 || i == 13 || i == 18 || i == 23;
    if (is_dash ? text[i] != '-' : !is_digit(text[i])) return false;
  }
  return true;
}

// Of one device: the lowest bit of the first byte marks addresses of groups.
bool is_mac(std::string_view bytes) {
  return bytes.size() == 6 && (static_cast<unsigned char>(bytes.front()) & 1) == 0;
}

Result<void> check_variables(const std::vector<std::string>& variables) {
  for (const std::string& variable : variables) {
    size_t equals = variable.find('=');
    if (equals == 0 || equals == std::string::npos || variable.find('\0') != std::string::npos)
      return fail(fmt::format("\"{}\" is not an environment variable", variable));
  }
  return {};
}

}  // namespace

std::vector<std::byte> encode_frame(FrameType type, uint32_t channel,
                                    std::span<const std::byte> payload) {
  FrameHeader header{};
  header.payload_size = static_cast<uint32_t>(payload.size());
  header.type = static_cast<uint8_t>(type);
  header.channel = channel;
  std::vector<std::byte> bytes(sizeof header + payload.size());
  std::memcpy(bytes.data(), &header, sizeof header);
  if (!payload.empty()) std::memcpy(bytes.data() + sizeof header, payload.data(), payload.size());
  return bytes;
}

Result<std::optional<Frame>> FrameReader::next(std::span<const std::byte>& input) {
  auto take_until = [&](size_t size) {
    size_t count = std::min(size - buffer_.size(), input.size());
    buffer_.insert(buffer_.end(), input.begin(), input.begin() + static_cast<ptrdiff_t>(count));
    input = input.subspan(count);
    return buffer_.size() == size;
  };

  FrameHeader header;
  if (buffer_.size() < sizeof header && !take_until(sizeof header)) return std::nullopt;
  std::memcpy(&header, buffer_.data(), sizeof header);
  if (header.payload_size > kMaxPayload)
    return fail(fmt::format("a frame of {} bytes; at most {} are allowed",
                            static_cast<uint32_t>(header.payload_size), kMaxPayload));
  if (!is_known(header.type)) return fail(fmt::format("a frame of unknown type {}", header.type));
  if (header.reserved[0] != 0 || header.reserved[1] != 0 || header.reserved[2] != 0)
    return fail("a frame with reserved bytes set");
  if (!take_until(sizeof header + header.payload_size)) return std::nullopt;

  Frame frame;
  frame.type = static_cast<FrameType>(header.type);
  frame.channel = header.channel;
  frame.payload.assign(buffer_.begin() + sizeof header, buffer_.end());
  buffer_.clear();
  return frame;
}

std::vector<std::byte> encode(const Hello& message) {
  return Encoder()
      .u32(message.version)
      .u64(message.realtime_ns)
      .string(message.entropy)
      .string(message.hostname)
      .string(message.token)
      .string(message.machine_id)
      .string(message.boot_id)
      .string(message.mac)
      .u8(message.adopt)
      .strings(message.service_environment)
      .take();
}

template <>
Result<Hello> decode(std::span<const std::byte> payload) {
  Decoder in(payload);
  Hello message;
  message.version = in.u32();
  message.realtime_ns = in.u64();
  message.entropy = in.string();
  message.hostname = in.string();
  message.token = in.string();
  message.machine_id = in.string();
  message.boot_id = in.string();
  message.mac = in.string();
  uint8_t adopt = in.u8();
  message.service_environment = in.strings();
  TRY(in.finish("Hello"));
  message.adopt = TRY(boolean(adopt));
  if (message.entropy.size() > 512) return fail("Hello with more than 512 bytes of entropy");
  if (message.hostname.size() > 64) return fail("Hello with a host name of more than 64 bytes");
  if (!message.machine_id.empty() && !is_machine_id(message.machine_id))
    return fail("Hello with a machine id that is not 32 hexadecimal digits");
  if (!message.boot_id.empty() && !is_uuid(message.boot_id))
    return fail("Hello with a boot id that is no UUID");
  if (!message.mac.empty() && !is_mac(message.mac))
    return fail("Hello with a MAC address that no device has");
  TRY(check_variables(message.service_environment));
  return message;
}

std::vector<std::byte> encode(const HelloReply& message) {
  return Encoder()
      .u32(message.version)
      .string(message.kernel)
      .u8(message.reseeded)
      .u8(message.adopted)
      .string(std::string_view(message.problem).substr(0, kMaxProblem))
      .take();
}

template <>
Result<HelloReply> decode(std::span<const std::byte> payload) {
  Decoder in(payload);
  HelloReply message;
  message.version = in.u32();
  message.kernel = in.string();
  uint8_t reseeded = in.u8();
  uint8_t adopted = in.u8();
  message.problem = in.string();
  TRY(in.finish("HelloReply"));
  message.reseeded = TRY(boolean(reseeded));
  message.adopted = TRY(boolean(adopted));
  message.problem = TRY(problem_text(std::move(message.problem)));
  if (message.kernel.size() > 256) return fail("HelloReply with a kernel name of over 256 bytes");
  return message;
}

std::vector<std::byte> encode(const Spawn& message) {
  return Encoder()
      .strings(message.arguments)
      .strings(message.environment)
      .string(message.working_directory)
      .string(message.user)
      .u8(message.terminal)
      .u8(message.open_input)
      .u16(message.rows)
      .u16(message.columns)
      .u8(message.agent_program)
      .u8(message.clear_environment)
      .u16(message.file_mask)
      .take();
}

template <>
Result<Spawn> decode(std::span<const std::byte> payload) {
  Decoder in(payload);
  Spawn message;
  message.arguments = in.strings();
  message.environment = in.strings();
  message.working_directory = in.string();
  message.user = in.string();
  uint8_t terminal = in.u8();
  uint8_t open_input = in.u8();
  message.rows = in.u16();
  message.columns = in.u16();
  uint8_t agent_program = in.u8();
  uint8_t clear_environment = in.u8();
  message.file_mask = in.u16();
  TRY(in.finish("Spawn"));
  message.terminal = TRY(boolean(terminal));
  message.open_input = TRY(boolean(open_input));
  message.agent_program = TRY(boolean(agent_program));
  message.clear_environment = TRY(boolean(clear_environment));
  if (message.arguments.empty()) return fail("Spawn without a program");
  if (message.file_mask > 0777) return fail("Spawn with a file mask beyond 0777");
  return message;
}

std::vector<std::byte> encode(const Started& message) {
  return Encoder().u32(message.process_id).take();
}

template <>
Result<Started> decode(std::span<const std::byte> payload) {
  Decoder in(payload);
  Started message{in.u32()};
  TRY(in.finish("Started"));
  return message;
}

std::vector<std::byte> encode(const Failed& message) {
  return Encoder()
      .u8(static_cast<uint8_t>(message.stage))
      .u32(message.error_number)
      .string(message.message)
      .take();
}

template <>
Result<Failed> decode(std::span<const std::byte> payload) {
  Decoder in(payload);
  uint8_t stage = in.u8();
  Failed message{static_cast<FailureStage>(stage), in.u32(), in.string()};
  TRY(in.finish("Failed"));
  if (stage < 1 || stage > 5) return fail(fmt::format("Failed with unknown stage {}", stage));
  return message;
}

std::vector<std::byte> encode(const Signal& message) {
  return Encoder().u32(message.number).take();
}

template <>
Result<Signal> decode(std::span<const std::byte> payload) {
  Decoder in(payload);
  Signal message{in.u32()};
  TRY(in.finish("Signal"));
  if (message.number < 1 || message.number > 64)
    return fail(fmt::format("there is no signal {}", message.number));
  return message;
}

std::vector<std::byte> encode(const Resize& message) {
  return Encoder().u16(message.rows).u16(message.columns).take();
}

template <>
Result<Resize> decode(std::span<const std::byte> payload) {
  Decoder in(payload);
  Resize message{in.u16(), in.u16()};
  TRY(in.finish("Resize"));
  return message;
}

std::vector<std::byte> encode(const Credit& message) {
  return Encoder().u8(message.stream).u32(message.bytes).take();
}

template <>
Result<Credit> decode(std::span<const std::byte> payload) {
  Decoder in(payload);
  Credit message{in.u8(), in.u32()};
  TRY(in.finish("Credit"));
  TRY(output_stream(message.stream));
  return message;
}

std::vector<std::byte> encode(const InputCredit& message) {
  return Encoder().u32(message.bytes).take();
}

template <>
Result<InputCredit> decode(std::span<const std::byte> payload) {
  Decoder in(payload);
  InputCredit message{in.u32()};
  TRY(in.finish("InputCredit"));
  return message;
}

std::vector<std::byte> encode(const Output& message) {
  return Encoder().u8(message.stream).rest(message.bytes).take();
}

template <>
Result<Output> decode(std::span<const std::byte> payload) {
  Decoder in(payload);
  Output message{in.u8(), in.rest()};
  TRY(in.finish("Output"));
  TRY(output_stream(message.stream));
  return message;
}

std::vector<std::byte> encode(const OutputEnd& message) {
  return Encoder().u8(message.stream).take();
}

template <>
Result<OutputEnd> decode(std::span<const std::byte> payload) {
  Decoder in(payload);
  OutputEnd message{in.u8()};
  TRY(in.finish("OutputEnd"));
  TRY(output_stream(message.stream));
  return message;
}

std::vector<std::byte> encode(const Exited& message) {
  return Encoder().u8(message.signaled).u32(message.value).u8(message.out_of_memory).take();
}

template <>
Result<Exited> decode(std::span<const std::byte> payload) {
  Decoder in(payload);
  uint8_t signaled = in.u8();
  uint32_t value = in.u32();
  uint8_t out_of_memory = in.u8();
  TRY(in.finish("Exited"));
  Exited message;
  message.signaled = TRY(boolean(signaled));
  message.value = value;
  message.out_of_memory = TRY(boolean(out_of_memory));
  if (message.signaled ? value < 1 || value > 64 : value > 255)
    return fail(fmt::format("Exited with impossible value {}", value));
  return message;
}

std::vector<std::byte> encode(const ReadFile& message) {
  return Encoder()
      .string(message.path)
      .string(message.user)
      .u64(message.offset)
      .u64(message.limit)
      .take();
}

template <>
Result<ReadFile> decode(std::span<const std::byte> payload) {
  Decoder in(payload);
  ReadFile message{in.string(), in.string(), in.u64(), in.u64()};
  TRY(in.finish("ReadFile"));
  return message;
}

std::vector<std::byte> encode(const WriteFile& message) {
  return Encoder()
      .string(message.path)
      .string(message.user)
      .u32(message.mode)
      .u8(message.append)
      .u8(message.create_new)
      .take();
}

template <>
Result<WriteFile> decode(std::span<const std::byte> payload) {
  Decoder in(payload);
  WriteFile message;
  message.path = in.string();
  message.user = in.string();
  message.mode = in.u32();
  uint8_t append = in.u8();
  uint8_t create_new = in.u8();
  TRY(in.finish("WriteFile"));
  message.append = TRY(boolean(append));
  message.create_new = TRY(boolean(create_new));
  if (message.mode > 07777) return fail(fmt::format("{:o} is not a file mode", message.mode));
  return message;
}

std::vector<std::byte> encode(const Done& message) {
  return Encoder().u64(message.size).take();
}

template <>
Result<Done> decode(std::span<const std::byte> payload) {
  Decoder in(payload);
  Done message{in.u64()};
  TRY(in.finish("Done"));
  return message;
}

std::vector<std::byte> encode(const Shutdown& message) {
  return Encoder().u8(static_cast<uint8_t>(message.kind)).take();
}

template <>
Result<Shutdown> decode(std::span<const std::byte> payload) {
  Decoder in(payload);
  uint8_t kind = in.u8();
  TRY(in.finish("Shutdown"));
  if (kind != 1 && kind != 2) return fail(fmt::format("there is no shutdown of kind {}", kind));
  return Shutdown{static_cast<ShutdownKind>(kind)};
}

std::vector<std::byte> encode(const Frozen& message) {
  return Encoder().string(std::string_view(message.problem).substr(0, kMaxProblem)).take();
}

template <>
Result<Frozen> decode(std::span<const std::byte> payload) {
  Decoder in(payload);
  Frozen message{in.string()};
  TRY(in.finish("Frozen"));
  message.problem = TRY(problem_text(std::move(message.problem)));
  return message;
}

std::vector<std::byte> encode(const Thawed& message) {
  return Encoder().string(std::string_view(message.problem).substr(0, kMaxProblem)).take();
}

template <>
Result<Thawed> decode(std::span<const std::byte> payload) {
  Decoder in(payload);
  Thawed message{in.string()};
  TRY(in.finish("Thawed"));
  message.problem = TRY(problem_text(std::move(message.problem)));
  return message;
}

std::vector<std::byte> encode(const Renew& message) {
  return Encoder().strings(message.environment).take();
}

template <>
Result<Renew> decode(std::span<const std::byte> payload) {
  Decoder in(payload);
  Renew message{in.strings()};
  TRY(in.finish("Renew"));
  TRY(check_variables(message.environment));
  return message;
}

uint32_t version_of(std::span<const std::byte> payload) {
  return Decoder(payload).u32();
}

}  // namespace hutch::protocol::agent
