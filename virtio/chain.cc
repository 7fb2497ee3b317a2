#include "virtio/chain.h"

#include <algorithm>
#include <cassert>
#include <utility>

namespace hutch::virtio {
namespace {

// Calls `piece(range)` for each part of `buffers` that `size` bytes from `offset` touch; returns
// how many bytes that were.
template <typename Piece>
Result<uint64_t> for_each_piece(std::span<const GuestRange> buffers, uint64_t offset, uint64_t size,
                                Piece piece) {
  uint64_t done = 0;
  for (const GuestRange& buffer : buffers) {
    if (done == size) break;
    if (offset >= buffer.size) {
      offset -= buffer.size;
      continue;
    }
    uint64_t part = std::min(buffer.size - offset, size - done);
    // Cannot wrap: the buffer lies in RAM.
    TRY(piece(GuestRange{GuestAddress(buffer.start.value() + offset), part}));
    done += part;
    offset = 0;
  }
  return done;
}

Result<std::vector<iovec>> view(const GuestMemory& memory, std::span<const GuestRange> buffers,
                                uint64_t offset, uint64_t size) {
  std::vector<iovec> vectors;
  vectors.reserve(buffers.size());
  TRY(for_each_piece(buffers, offset, size, [&](GuestRange range) -> Result<void> {
    vectors.push_back(TRY(memory.view(range)));
    return {};
  }));
  return vectors;
}

}  // namespace

Chain::Chain(Chain&& other) noexcept
    : memory_(other.memory_),
      head_(other.head_),
      outstanding_(std::exchange(other.outstanding_, false)),
      buffers_(std::move(other.buffers_)),
      readable_count_(other.readable_count_),
      readable_size_(other.readable_size_),
      writable_size_(other.writable_size_) {}

Chain::~Chain() {
  assert(!outstanding_);
}

Result<size_t> Chain::read(uint64_t offset, std::span<std::byte> bytes) const {
  return for_each_piece(readable(), offset, bytes.size(), [&](GuestRange range) -> Result<void> {
    TRY(memory_->read_bytes(range.start, bytes.first(range.size)));
    bytes = bytes.subspan(range.size);
    return {};
  });
}

Result<size_t> Chain::write(uint64_t offset, std::span<const std::byte> bytes) const {
  return for_each_piece(writable(), offset, bytes.size(), [&](GuestRange range) -> Result<void> {
    TRY(memory_->write_bytes(range.start, bytes.first(range.size)));
    bytes = bytes.subspan(range.size);
    return {};
  });
}

Result<std::vector<iovec>> Chain::readable_view(uint64_t offset, uint64_t size) const {
  return view(*memory_, readable(), offset, size);
}

Result<std::vector<iovec>> Chain::writable_view(uint64_t offset, uint64_t size) const {
  return view(*memory_, writable(), offset, size);
}

}  // namespace hutch::virtio
