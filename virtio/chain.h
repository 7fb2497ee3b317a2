// Chain: one request of the driver, as checked buffers; the device never sees descriptors.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "memory/guest_memory.h"

namespace hutch::virtio {

// The buffers of one descriptor chain. Move-only; every chain that Queue::pop hands out must go
// back to its queue (complete, undo_pop or abandon), which the destructor asserts.
class [[nodiscard]] Chain {
 public:
  Chain(Chain&& other) noexcept;
  Chain& operator=(Chain&&) = delete;
  ~Chain();

  // Buffers the device reads, then those it writes, in the order of the chain. All lie in RAM and
  // none is empty; there may be none of a kind. What they hold is guest-controlled at all times.
  std::span<const GuestRange> readable() const {
    return std::span(buffers_).first(readable_count_);
  }
  std::span<const GuestRange> writable() const {
    return std::span(buffers_).subspan(readable_count_);
  }
  // Bytes; together below 4 GiB.
  uint64_t readable_size() const { return readable_size_; }
  uint64_t writable_size() const { return writable_size_; }

  // Copies bytes out of the readable part starting `offset` bytes into it; returns how many there
  // were, which is less than asked at its end.
  Result<size_t> read(uint64_t offset, std::span<std::byte> bytes) const;
  // Copies bytes into the writable part at `offset`; returns how many fitted.
  Result<size_t> write(uint64_t offset, std::span<const std::byte> bytes) const;
  // The kernel's view of `size` bytes of the readable or writable part from `offset`, for
  // preadv/pwritev. Shorter than asked at the end of the part.
  Result<std::vector<iovec>> readable_view(uint64_t offset, uint64_t size) const;
  Result<std::vector<iovec>> writable_view(uint64_t offset, uint64_t size) const;

 private:
  friend class Queue;
  Chain(const GuestMemory& memory, uint16_t head, std::vector<GuestRange> buffers)
      : memory_(&memory), head_(head), buffers_(std::move(buffers)) {}

  const GuestMemory* memory_;
  uint16_t head_;
  bool outstanding_ = true;
  std::vector<GuestRange> buffers_;
  size_t readable_count_ = 0;
  uint64_t readable_size_ = 0;
  uint64_t writable_size_ = 0;
};

}  // namespace hutch::virtio
