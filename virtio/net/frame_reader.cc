#include "virtio/net/frame_reader.h"

#include <cstring>
#include <optional>
#include <span>

namespace hutch::virtio::net {
namespace {
constexpr size_t kBufferSize = kHeaderSize + kMaxFrame;
}

// Not written to: of a page that no frame has reached nothing is resident.
FrameReader::FrameReader() : buffer_(std::make_unique_for_overwrite<std::byte[]>(kBufferSize)) {}

Result<bool> FrameReader::run(Queue& queue, const Agreement& agreement, FrameReceiver& receiver,
                              DirectionCounters& counters) {
  TRY(queue.disable_notification());
  uint64_t bytes = 0;
  for (uint32_t frames = 0; frames < kMaxFrames && bytes < kMaxBytes; frames++) {
    std::optional<Chain> chain = TRY(queue.pop());
    if (!chain) {
      if (TRY(queue.enable_notification())) continue;
      return false;
    }
    // What is too short or too long is not even copied.
    const uint64_t size = chain->readable_size();
    const bool is_frame = size >= kHeaderSize + kEthernetHeaderSize && size <= kBufferSize;
    if (is_frame) {
      Result<size_t> copied = chain->read(0, std::span(buffer_.get(), size));
      if (!copied) {
        queue.abandon(*std::move(chain));
        return tl::unexpected(std::move(copied).error());
      }
      bytes += size;
    }
    TRY(queue.complete_unpublished(*std::move(chain), 0));
    if (is_frame) {
      pass_on(size, agreement, receiver, counters);
    } else {
      counters.dropped(size > kBufferSize ? Drop::kTooLong : Drop::kTooShort)++;
    }
  }
  return true;
}

void FrameReader::pass_on(size_t size, const Agreement& agreement, FrameReceiver& receiver,
                          DirectionCounters& counters) const {
  spec::NetHeader header;
  std::memcpy(&header, buffer_.get(), sizeof header);
  const std::span<const std::byte> frame(buffer_.get() + kHeaderSize, size - kHeaderSize);
  const tl::expected<FrameOffload, Drop> offload = read_header(header, frame, agreement);
  if (!offload) {
    counters.dropped(offload.error())++;
    return;
  }
  counters.frames++;
  counters.bytes += frame.size();
  receiver.on_frame(frame, *offload);
}

}  // namespace hutch::virtio::net
