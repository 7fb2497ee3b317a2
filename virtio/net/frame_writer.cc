#include "virtio/net/frame_writer.h"

#include <algorithm>
#include <optional>

namespace hutch::virtio::net {

Result<FrameWriter::Answer> FrameWriter::write(Queue& queue, const Agreement& agreement,
                                               const spec::NetHeader& header,
                                               std::span<const std::span<const std::byte>> pieces,
                                               size_t size) {
  const uint64_t needed = kHeaderSize + size;
  Result<Outcome> gathered = gather(queue, agreement, needed);
  Result<void> written;
  if (!gathered) {
    written = tl::unexpected(std::move(gathered).error());
  } else if (*gathered != Outcome::kWritten) {
    const auto waiting = static_cast<uint16_t>(chains_.size());
    for (; !chains_.empty(); chains_.pop_back()) queue.undo_pop(std::move(chains_.back()));
    return Answer{*gathered, waiting};
  } else {
    written = fill(header, pieces);
  }
  if (!written) {
    for (Chain& chain : chains_) queue.abandon(std::move(chain));
    chains_.clear();
    return tl::unexpected(std::move(written).error());
  }
  TRY(complete(queue, needed));
  return Answer{Outcome::kWritten, 0};
}

// Pops buffers until they hold `needed` bytes.
Result<FrameWriter::Outcome> FrameWriter::gather(Queue& queue, const Agreement& agreement,
                                                 uint64_t needed) {
  const size_t most = agreement.has(spec::kNetFeatureMergeableBuffers) ? queue.size() : 1;
  for (uint64_t room = 0; room < needed;) {
    if (chains_.size() == most) return Outcome::kNoSuchRoom;
    std::optional<Chain> chain = TRY(queue.pop());
    if (!chain) return Outcome::kNoRoom;
    room += chain->writable_size();
    chains_.push_back(*std::move(chain));
    // Section 5.1.6.3.1 wants each buffer to have at least this size; it also means that a buffer
    // of nothing is no buffer.
    if (chains_.back().writable_size() < kHeaderSize)
      return fail(fmt::format("a network receive buffer of {} bytes has no room for a header",
                              chains_.back().writable_size()));
  }
  return Outcome::kWritten;
}

// Into the buffers at hand, which hold it, one after the other.
Result<void> FrameWriter::fill(const spec::NetHeader& header,
                               std::span<const std::span<const std::byte>> pieces) const {
  spec::NetHeader counted = header;
  counted.buffer_count = static_cast<uint16_t>(chains_.size());
  TRY(chains_.front().write(0, std::as_bytes(std::span(&counted, 1))));
  auto chain = chains_.begin();
  uint64_t offset = kHeaderSize;
  for (std::span<const std::byte> piece : pieces) {
    while (!piece.empty()) {
      if (offset == chain->writable_size()) {
        ++chain;
        offset = 0;
      }
      const size_t count = TRY(chain->write(offset, piece));
      offset += count;
      piece = piece.subspan(count);
    }
  }
  return {};
}

Result<void> FrameWriter::complete(Queue& queue, uint64_t needed) {
  Result<void> completed;
  for (Chain& chain : chains_) {
    if (!completed) {
      queue.abandon(std::move(chain));
      continue;
    }
    const uint64_t part = std::min(needed, chain.writable_size());
    needed -= part;
    completed = queue.complete_unpublished(std::move(chain), part);
  }
  chains_.clear();
  return completed;
}

}  // namespace hutch::virtio::net
