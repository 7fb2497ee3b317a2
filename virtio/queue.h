// Queue: the device's side of a split virtqueue (virtio 1.2 section 2.7).
//
// pop() walks a descriptor chain once, copies every descriptor before looking at it, and hands out
// a Chain whose buffers are checked; the device never sees a ring. Everything read from the rings
// is guest-controlled: a violation is an Error, after which the queue must be stopped and the
// driver told (DEVICE_NEEDS_RESET). A Queue belongs to one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "memory/guest_memory.h"

namespace hutch::virtio {

// How far a queue has come; what stop_queue returns and start_queue takes.
struct QueueState {
  uint16_t next_available = 0;  // index of the next available entry to take
  uint16_t next_used = 0;       // index of the next used entry to fill
};

// Where the driver put a queue. Addresses and size are guest-controlled until Queue::create
// accepted them.
struct QueueLayout {
  uint16_t size = 0;  // entries, a power of two
  GuestAddress descriptors;
  GuestAddress available;
  GuestAddress used;
};

// One request: the checked buffers of one descriptor chain. Move-only; must be given back with
// Queue::complete.
class Chain {
 public:
  Chain(Chain&& other) noexcept;
  Chain& operator=(Chain&& other) noexcept;
  ~Chain();

  // Buffers the device reads, then those it writes, in the order of the chain. All lie in RAM.
  std::span<const GuestRange> readable() const;
  std::span<const GuestRange> writable() const;
  uint64_t readable_size() const { return readable_size_; }  // bytes, below 4 GiB
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
  Chain(const GuestMemory& memory, uint16_t head) : memory_(&memory), head_(head) {}
  const GuestMemory* memory_;
  uint16_t head_;
  bool outstanding_ = true;
  std::vector<GuestRange> buffers_;
  size_t readable_count_ = 0;
  uint64_t readable_size_ = 0;
  uint64_t writable_size_ = 0;
};

class Queue {
 public:
  // Checks the layout: size a power of two up to `max_size`, alignments of section 2.7, all three
  // areas in RAM. `features` are the negotiated ones (EVENT_IDX and INDIRECT_DESC matter here).
  static Result<Queue> create(const GuestMemory& memory, const QueueLayout& layout,
                              uint16_t max_size, uint64_t features, QueueState state = {});
  Queue(Queue&&) = default;
  Queue& operator=(Queue&&) = default;

  // The next request, or nothing when the driver has made none available. Errors: a broken ring.
  Result<std::optional<Chain>> pop();
  // Puts the chain back un-served; the next pop() gives it again. Only the chain popped last.
  void undo_pop(Chain&& chain);
  // Gives a request back with the number of bytes written into its writable part (clamped to it).
  Result<void> complete(Chain&& chain, uint32_t written);
  // Whether the driver wants an interrupt for what has been completed since the last call.
  Result<bool> should_interrupt();
  // Asks the driver to notify (again) and returns whether requests are already waiting, in which
  // case the caller must pop once more. Call before going to sleep.
  Result<bool> enable_notification();
  // Tells the driver that it need not notify for now. A hint.
  Result<void> disable_notification();

  QueueState state() const { return {next_available_, next_used_}; }
  uint16_t size() const { return layout_.size; }

 private:
  Queue(const GuestMemory& memory, const QueueLayout& layout, uint64_t features, QueueState state);

  const GuestMemory* memory_;
  QueueLayout layout_;
  bool event_index_ = false;
  bool indirect_ = false;
  uint16_t next_available_ = 0;
  uint16_t next_used_ = 0;
  uint16_t signalled_used_ = 0;  // next_used_ at the last should_interrupt()
  uint16_t outstanding_ = 0;     // chains popped and not completed; at most the queue's size
};

}  // namespace hutch::virtio
