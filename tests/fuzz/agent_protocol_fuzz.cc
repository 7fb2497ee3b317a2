// The host's decoding of what an agent says: any bytes, cut into frames and decoded.
//
// The first byte says in what pieces the stream arrives. Besides memory errors, this looks for a
// reader that holds more than a frame, for a message that does not encode to what it was decoded
// from, and for a result that depends on how the stream was cut.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

#include "protocol/agent.h"

namespace {

using namespace hutch::protocol::agent;  // NOLINT: the wire's names

void require(bool condition) {
  if (!condition) std::abort();
}

template <typename T>
void check(const Frame& frame) {
  auto message = decode<T>(frame.payload);
  if (message) require(encode(*message) == frame.payload);
}

void decode_any(const Frame& frame) {
  require(frame.payload.size() <= kMaxPayload);
  switch (frame.type) {
    case FrameType::kHelloReply:
      return check<HelloReply>(frame);
    case FrameType::kStarted:
      return check<Started>(frame);
    case FrameType::kFailed:
      return check<Failed>(frame);
    case FrameType::kOutput:
      return check<Output>(frame);
    case FrameType::kOutputEnd:
      return check<OutputEnd>(frame);
    case FrameType::kExited:
      return check<Exited>(frame);
    case FrameType::kInputCredit:
      return check<InputCredit>(frame);
    case FrameType::kDone:
      return check<Done>(frame);
    case FrameType::kFrozen:
      return check<Frozen>(frame);
    case FrameType::kThawed:
      return check<Thawed>(frame);
    case FrameType::kRenew:
      return check<Renew>(frame);
    // What only a host says reaches a decoder in the agent of the emulated machine.
    case FrameType::kHello:
      return check<Hello>(frame);
    case FrameType::kSpawn:
      return check<Spawn>(frame);
    case FrameType::kSignal:
      return check<Signal>(frame);
    case FrameType::kResize:
      return check<Resize>(frame);
    case FrameType::kCredit:
      return check<Credit>(frame);
    case FrameType::kReadFile:
      return check<ReadFile>(frame);
    case FrameType::kWriteFile:
      return check<WriteFile>(frame);
    case FrameType::kShutdown:
      return check<Shutdown>(frame);
    case FrameType::kInput:
    case FrameType::kInputEnd:
    case FrameType::kClose:
    case FrameType::kFreeze:
    case FrameType::kThaw:
      return;
  }
  std::abort();  // the reader passed an unknown type on
}

struct Outcome {
  size_t frames = 0;
  bool failed = false;
};

Outcome read_stream(std::span<const std::byte> stream, size_t piece) {
  FrameReader reader;
  Outcome outcome;
  while (!stream.empty()) {
    std::span<const std::byte> input = stream.first(std::min(piece, stream.size()));
    stream = stream.subspan(input.size());
    for (;;) {
      auto frame = reader.next(input);
      if (!frame) {
        outcome.failed = true;
        return outcome;
      }
      if (!*frame) break;
      outcome.frames++;
      decode_any(**frame);
    }
    require(input.empty());
  }
  return outcome;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  std::span<const std::byte> stream = std::as_bytes(std::span(data + 1, size - 1));
  Outcome whole = read_stream(stream, stream.size() + 1);
  Outcome in_pieces = read_stream(stream, static_cast<size_t>(data[0]) + 1);
  require(whole.frames == in_pieces.frames && whole.failed == in_pieces.failed);
  return 0;
}
