#include "protocol/agent.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

namespace hutch::protocol::agent {
namespace {

using Bytes = std::vector<std::byte>;

Bytes bytes_of(std::string_view text) {
  Bytes bytes(text.size());
  if (!text.empty()) std::memcpy(bytes.data(), text.data(), text.size());
  return bytes;
}

void put_u32(Bytes& bytes, size_t at, uint32_t value) {
  for (size_t i = 0; i < 4; i++) bytes[at + i] = static_cast<std::byte>(value >> (8 * i));
}

// One message of each kind, with every field away from its default.
const Hello kHello{.version = 0x01020304,
                   .realtime_ns = 0x1122334455667788,
                   .entropy = std::string("\0\x01\xff", 3),
                   .hostname = "sandbox",
                   .token = "secret",
                   .machine_id = "0123456789abcdef0123456789abcdef",
                   .boot_id = "01234567-89ab-4cde-8f01-23456789abcd",
                   .mac = std::string("\x52\0\x01\xff\x03\x04", 6),
                   .adopt = true,
                   .service_environment = {"DENO_SANDBOX_ID=sbx_1", "EMPTY="}};
const HelloReply kHelloReply{
    .version = 7, .kernel = "6.12.1-hutch", .reseeded = true, .adopted = true, .problem = "no"};
const Spawn kSpawn{.arguments = {"sh", "-c", ""},
                   .environment = {"A=1", "B="},
                   .working_directory = "/app",
                   .user = "app",
                   .terminal = true,
                   .open_input = true,
                   .rows = 0x1234,
                   .columns = 0xfedc,
                   .agent_program = true,
                   .clear_environment = true,
                   .file_mask = 077};
const Started kStarted{.process_id = 0xdeadbeef};
const Failed kFailed{
    .stage = FailureStage::kExecute, .error_number = 2, .message = "x is not in PATH"};
const Signal kSignal{.number = 64};
const Resize kResize{.rows = 50, .columns = 300};
const Credit kCredit{.stream = 2, .bytes = 65536};
const InputCredit kInputCredit{.bytes = 0x80000001};
const OutputEnd kOutputEnd{.stream = 2};
const Exited kExited{.signaled = true, .value = 9, .out_of_memory = true};
const ReadFile kReadFile{.path = "/etc/passwd", .user = "app", .offset = 5, .limit = 1ULL << 40};
const WriteFile kWriteFile{
    .path = "/app/x", .user = "0", .mode = 07755, .append = true, .create_new = true};
const Done kDone{.size = 0x8000000000000001};
const Shutdown kShutdown{.kind = ShutdownKind::kReboot};
const Frozen kFrozen{.problem = "a process did not stop"};
const Thawed kThawed{.problem = "a group is gone"};
const Renew kRenew{.environment = {"A=1", "B=x=y"}};

struct Case {
  const char* name;
  Bytes payload;
  std::function<bool(std::span<const std::byte>)> decodes;
  std::function<bool(std::span<const std::byte>)> decodes_to_itself;
};

template <typename T>
Case make_case(const char* name, const T& message) {
  Bytes payload = encode(message);
  return {name, payload, [](std::span<const std::byte> bytes) { return bool(decode<T>(bytes)); },
          [payload](std::span<const std::byte> bytes) {
            auto decoded = decode<T>(bytes);
            return decoded && encode(*decoded) == payload;
          }};
}

// Every message but Output, which takes all that is left and so has no wrong length.
std::vector<Case> all_cases() {
  return {make_case("Hello", kHello),
          make_case("HelloReply", kHelloReply),
          make_case("Spawn", kSpawn),
          make_case("Started", kStarted),
          make_case("Failed", kFailed),
          make_case("Signal", kSignal),
          make_case("Resize", kResize),
          make_case("Credit", kCredit),
          make_case("InputCredit", kInputCredit),
          make_case("OutputEnd", kOutputEnd),
          make_case("Exited", kExited),
          make_case("ReadFile", kReadFile),
          make_case("WriteFile", kWriteFile),
          make_case("Done", kDone),
          make_case("Shutdown", kShutdown),
          make_case("Frozen", kFrozen),
          make_case("Thawed", kThawed),
          make_case("Renew", kRenew)};
}

TEST_CASE("each message survives encoding and decoding") {
  for (const Case& one : all_cases()) {
    INFO(one.name);
    CHECK(one.decodes_to_itself(one.payload));
  }
}

TEST_CASE("the fields arrive as they were sent") {
  auto hello = decode<Hello>(encode(kHello)).value();
  CHECK(hello.version == kHello.version);
  CHECK(hello.realtime_ns == kHello.realtime_ns);
  CHECK(hello.entropy == kHello.entropy);
  CHECK(hello.hostname == "sandbox");
  CHECK(hello.token == "secret");
  CHECK(hello.machine_id == kHello.machine_id);
  CHECK(hello.boot_id == kHello.boot_id);
  CHECK(hello.mac == kHello.mac);
  CHECK(hello.adopt);
  CHECK(hello.service_environment == kHello.service_environment);
  auto reply = decode<HelloReply>(encode(kHelloReply)).value();
  CHECK(reply.kernel == kHelloReply.kernel);
  CHECK(reply.reseeded);
  CHECK(reply.adopted);
  CHECK(reply.problem == "no");
  auto spawn = decode<Spawn>(encode(kSpawn)).value();
  CHECK(spawn.arguments == kSpawn.arguments);
  CHECK(spawn.environment == kSpawn.environment);
  CHECK(spawn.working_directory == "/app");
  CHECK(spawn.user == "app");
  CHECK(spawn.terminal);
  CHECK(spawn.open_input);
  CHECK(spawn.rows == 0x1234);
  CHECK(spawn.columns == 0xfedc);
  CHECK(spawn.agent_program);
  CHECK(spawn.clear_environment);
  CHECK(spawn.file_mask == 077);
  auto failed = decode<Failed>(encode(kFailed)).value();
  CHECK(failed.stage == FailureStage::kExecute);
  CHECK(failed.error_number == 2);
  CHECK(failed.message == kFailed.message);
  auto exited = decode<Exited>(encode(kExited)).value();
  CHECK(exited.signaled);
  CHECK(exited.value == 9);
  CHECK(exited.out_of_memory);
  auto read = decode<ReadFile>(encode(kReadFile)).value();
  CHECK(read.path == kReadFile.path);
  CHECK(read.user == "app");
  CHECK(read.offset == 5);
  CHECK(read.limit == 1ULL << 40);
  auto write = decode<WriteFile>(encode(kWriteFile)).value();
  CHECK(write.path == kWriteFile.path);
  CHECK(write.mode == 07755);
  CHECK(write.append);
  CHECK(write.create_new);
  CHECK(decode<Shutdown>(encode(kShutdown)).value().kind == ShutdownKind::kReboot);
}

TEST_CASE("a payload is the same on every host") {
  CHECK(encode(Credit{.stream = 1, .bytes = 0x01020304}) == bytes_of("\x01\x04\x03\x02\x01"));
  CHECK(encode(Resize{.rows = 0x0102, .columns = 0x0304}) == bytes_of("\x02\x01\x04\x03"));
  CHECK(encode_frame(FrameType::kOutputEnd, 0x0a0b0c0d, encode(OutputEnd{2})) ==
        bytes_of(std::string_view("\x01\0\0\0\x45\0\0\0\x0d\x0c\x0b\x0a\x02", 13)));
}

TEST_CASE("a message cut short at any byte is refused") {
  for (const Case& one : all_cases()) {
    for (size_t size = 0; size < one.payload.size(); size++) {
      INFO(one.name << " of " << size << " bytes");
      // A copy of exactly this size, so that a sanitizer sees a read behind it.
      Bytes cut(one.payload.begin(), one.payload.begin() + static_cast<ptrdiff_t>(size));
      CHECK_FALSE(one.decodes(cut));
    }
  }
}

TEST_CASE("a message with bytes behind its last field is refused") {
  for (const Case& one : all_cases()) {
    INFO(one.name);
    Bytes longer = one.payload;
    longer.push_back(std::byte{0});
    CHECK_FALSE(one.decodes(longer));
  }
}

TEST_CASE("a length or count that the payload does not hold is refused, without allocating it") {
  for (uint32_t lie : {4U, 0x7fffffffU, 0x80000000U, 0xffffffffU}) {
    INFO(lie);
    Bytes reply = encode(HelloReply{.version = 1, .kernel = "abc"});
    put_u32(reply, 4, lie);
    CHECK_FALSE(decode<HelloReply>(reply));
    Bytes failed = encode(Failed{.stage = FailureStage::kFile, .message = "abc"});
    put_u32(failed, 5, lie);
    CHECK_FALSE(decode<Failed>(failed));
    Bytes spawn = encode(Spawn{.arguments = {"abc"}});
    put_u32(spawn, 0, lie);
    CHECK_FALSE(decode<Spawn>(spawn));
    spawn = encode(Spawn{.arguments = {"abc"}});
    put_u32(spawn, 4, lie);
    CHECK_FALSE(decode<Spawn>(spawn));
  }
}

TEST_CASE("values outside their range are refused") {
  CHECK_FALSE(decode<Signal>(encode(Signal{0})));
  CHECK_FALSE(decode<Signal>(encode(Signal{65})));
  CHECK_FALSE(decode<Credit>(encode(Credit{.stream = 0, .bytes = 1})));
  CHECK_FALSE(decode<Credit>(encode(Credit{.stream = 3, .bytes = 1})));
  CHECK_FALSE(decode<OutputEnd>(encode(OutputEnd{3})));
  CHECK_FALSE(decode<Output>(encode(Output{.stream = 0, .bytes = {}})));
  CHECK_FALSE(decode<Exited>(encode(Exited{.signaled = true, .value = 0})));
  CHECK_FALSE(decode<Exited>(encode(Exited{.signaled = true, .value = 65})));
  CHECK_FALSE(decode<Exited>(encode(Exited{.signaled = false, .value = 256})));
  CHECK(decode<Exited>(encode(Exited{.signaled = false, .value = 255})));
  CHECK_FALSE(decode<WriteFile>(encode(WriteFile{.path = "x", .mode = 010000})));
  CHECK_FALSE(decode<Hello>(encode(Hello{.entropy = std::string(513, 'x')})));
  CHECK_FALSE(decode<Hello>(encode(Hello{.hostname = std::string(65, 'x')})));
  CHECK_FALSE(decode<HelloReply>(encode(HelloReply{.kernel = std::string(257, 'x')})));
  for (const char* id : {"0123456789abcdef0123456789abcde", "0123456789abcdef0123456789abcdeg",
                         "0123456789ABCDEF0123456789ABCDEF"})
    CHECK_FALSE(decode<Hello>(encode(Hello{.machine_id = id})));
  for (const char* id :
       {"01234567-89ab-4cde-8f01-23456789abc", "0123456789ab-4cde-8f01-23456789abcdef",
        "01234567-89ab-4cde-8f01-23456789abcg", "\n"})
    CHECK_FALSE(decode<Hello>(encode(Hello{.boot_id = id})));
  for (const char* mac :
       {"\x52\x01\x01\x01\x01", "\x52\x01\x01\x01\x01\x01\x01", "\x53\x01\x01\x01\x01\x01"})
    CHECK_FALSE(decode<Hello>(encode(Hello{.mac = mac})));
  for (const std::string& variable :
       {std::string("A"), std::string("=A"), std::string(), std::string("A=\0", 3)}) {
    CHECK_FALSE(decode<Hello>(encode(Hello{.service_environment = {"B=1", variable}})));
    CHECK_FALSE(decode<Renew>(encode(Renew{.environment = {"B=1", variable}})));
  }
  CHECK_FALSE(decode<Spawn>(encode(Spawn{})));  // no program
  CHECK_FALSE(decode<Spawn>(encode(Spawn{.arguments = {"abc"}, .file_mask = 01000})));

  Bytes failed = encode(kFailed);
  for (int stage : {0, 6, 255}) {
    failed[0] = static_cast<std::byte>(stage);
    CHECK_FALSE(decode<Failed>(failed));
  }
  Bytes exited = encode(kExited);
  exited[0] = std::byte{2};
  CHECK_FALSE(decode<Exited>(exited));
  for (int kind : {0, 3}) CHECK_FALSE(decode<Shutdown>(Bytes{static_cast<std::byte>(kind)}));
}

TEST_CASE("a problem is cut to what the peer takes, and more is refused") {
  CHECK(decode<Frozen>(encode(Frozen{std::string(5000, 'x')})).value().problem.size() == 1024);
  CHECK(decode<Thawed>(encode(Thawed{std::string(5000, 'x')})).value().problem.size() == 1024);
  auto reply = encode(HelloReply{.problem = std::string(5000, 'x')});
  CHECK(decode<HelloReply>(reply).value().problem.size() == 1024);
  Bytes longer(4 + 1025, std::byte{'x'});
  put_u32(longer, 0, 1025);
  CHECK_FALSE(decode<Frozen>(longer));
  CHECK_FALSE(decode<Thawed>(longer));
}

TEST_CASE("a version is read from a greeting of any layout") {
  Bytes other = encode(HelloReply{.version = 99});
  other.push_back(std::byte{1});
  CHECK_FALSE(decode<HelloReply>(other));
  CHECK(version_of(other) == 99);
  CHECK(version_of(encode(kHello)) == kHello.version);
  CHECK(version_of(Bytes(3)) == 0);
}

TEST_CASE("Output points at the bytes behind its stream") {
  Bytes payload = encode(Output{.stream = 2, .bytes = bytes_of("text")});
  auto output = decode<Output>(payload).value();
  CHECK(output.stream == 2);
  CHECK(output.bytes.data() == payload.data() + 1);
  CHECK(output.bytes.size() == 4);
  CHECK_FALSE(decode<Output>(Bytes{}));
}

// Feeds `stream` in pieces of `piece` bytes; returns the frames, or nothing after an error.
std::optional<std::vector<Frame>> read_all(std::span<const std::byte> stream, size_t piece) {
  FrameReader reader;
  std::vector<Frame> frames;
  while (!stream.empty()) {
    std::span<const std::byte> input = stream.first(std::min(piece, stream.size()));
    stream = stream.subspan(input.size());
    for (;;) {
      auto frame = reader.next(input);
      if (!frame) return std::nullopt;
      if (!*frame) break;
      frames.push_back(**std::move(frame));
    }
    CHECK(input.empty());
  }
  return frames;
}

TEST_CASE("frames come out whole however the stream is cut") {
  Bytes stream;
  for (const Bytes& frame :
       {encode_frame(FrameType::kExited, 7, encode(kExited)), encode_frame(FrameType::kInputEnd, 8),
        encode_frame(FrameType::kInput, 0xffffffff, Bytes(300, std::byte{'x'}))})
    stream.insert(stream.end(), frame.begin(), frame.end());
  for (size_t piece = 1; piece <= stream.size(); piece++) {
    INFO("pieces of " << piece);
    auto frames = read_all(stream, piece);
    REQUIRE(frames);
    REQUIRE(frames->size() == 3);
    CHECK((*frames)[0].type == FrameType::kExited);
    CHECK((*frames)[0].channel == 7);
    CHECK((*frames)[0].payload == encode(kExited));
    CHECK((*frames)[1].payload.empty());
    CHECK((*frames)[2].channel == 0xffffffff);
    CHECK((*frames)[2].payload == Bytes(300, std::byte{'x'}));
  }
}

TEST_CASE("the largest payload passes, a larger one is refused before it has come") {
  Bytes largest = encode_frame(FrameType::kInput, 1, Bytes(kMaxPayload));
  auto frames = read_all(largest, 4096);
  REQUIRE(frames);
  CHECK(frames->size() == 1);
  for (uint32_t size : {kMaxPayload + 1, 0x80000000U, 0xffffffffU}) {
    Bytes header = encode_frame(FrameType::kInput, 1);
    put_u32(header, 0, size);
    CHECK_FALSE(read_all(header, 1));
  }
}

TEST_CASE("unknown types and reserved bytes are refused") {
  const std::array known = {1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12,
                            13, 65, 66, 67, 68, 69, 70, 71, 72, 73, 74, 75};
  for (int type = 0; type < 256; type++) {
    INFO(type);
    Bytes frame = encode_frame(static_cast<FrameType>(type), 1);
    bool is_known = std::find(known.begin(), known.end(), type) != known.end();
    CHECK(read_all(frame, frame.size()).has_value() == is_known);
  }
  for (size_t at = 5; at < 8; at++) {
    Bytes frame = encode_frame(FrameType::kInputEnd, 1);
    frame[at] = std::byte{1};
    CHECK_FALSE(read_all(frame, frame.size()));
  }
}

}  // namespace
}  // namespace hutch::protocol::agent
