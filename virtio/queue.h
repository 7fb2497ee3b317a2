// Queue: the device's side of a split virtqueue (virtio 1.2 section 2.7).
//
// pop() walks a descriptor chain once, copies every descriptor before looking at it, and hands out
// a Chain whose buffers are checked; the device never sees a ring. Everything read from the rings
// is guest-controlled: a violation is an Error, after which the queue must be stopped and the
// driver told (DEVICE_NEEDS_RESET). What the device wrote into the used ring is never read back.
//
// Accepted beyond the letter of the specification: buffers of no bytes, which are skipped; indirect
// tables of up to kMaxIndirectDescriptors entries, whatever the queue's size (Linux does that).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/result.h"
#include "memory/guest_memory.h"
#include "virtio/chain.h"
#include "virtio/spec.h"

namespace hutch::virtio {

constexpr size_t kMaxIndirectDescriptors = 1024;

// How far a queue has come; what stop_queue returns and start_queue takes.
struct QueueState {
  uint16_t next_available = 0;  // index of the next available entry to take
  uint16_t next_used = 0;       // index of the next used entry to fill
  bool operator==(const QueueState&) const = default;
};

// Where the driver put a queue. Addresses and size are guest-controlled until Queue::create
// accepted them.
struct QueueLayout {
  uint32_t size = 0;  // entries, a power of two
  GuestAddress descriptors;
  GuestAddress available;
  GuestAddress used;
};

// Belongs to one thread at a time.
class Queue {
 public:
  // Checks the layout: size a power of two up to `max_size`, alignments of section 2.7, all three
  // areas in RAM. `features` are the negotiated ones (EVENT_IDX and INDIRECT_DESC matter here).
  // `memory` must outlive the queue.
  static Result<Queue> create(const GuestMemory& memory, const QueueLayout& layout,
                              uint16_t max_size, uint64_t features, QueueState state = {});
  Queue(Queue&&) = default;
  Queue& operator=(Queue&&) = default;

  // The next request, or nothing when the driver has made none available. Errors: a broken ring.
  Result<std::optional<Chain>> pop();
  // Puts the chain back un-served; the next pop() reads it again. Only the chain popped last, so
  // of several the last one first.
  void undo_pop(Chain&& chain);
  // Gives a request back with the number of bytes written into its writable part (clamped to it).
  Result<void> complete(Chain&& chain, uint64_t written);
  // The same, but the driver sees it only after publish(): for several that it must see together,
  // or that need not cost an access to the shared index each. Still in flight until then.
  Result<void> complete_unpublished(Chain&& chain, uint64_t written);
  Result<void> publish();
  // Drops a request unanswered, for a queue that will be stopped because it is broken.
  void abandon(Chain&& chain);
  // Whether the driver wants an interrupt for what has been completed since the last call. After
  // publish().
  Result<bool> should_interrupt();
  // Asks the driver to notify (again) and returns whether more than `known` requests are already
  // waiting, in which case the caller must pop once more. Call before going to sleep; `known`
  // requests were popped, were not enough for anything, and are back.
  Result<bool> enable_notification(uint16_t known = 0);
  // Tells the driver that it need not notify for now. A hint.
  Result<void> disable_notification();

  // After publish().
  QueueState state() const { return {next_available_, next_used_}; }
  uint16_t size() const { return size_; }
  // Chains popped and not given back; at most size().
  uint16_t outstanding() const { return outstanding_; }

 private:
  Queue(const GuestMemory& memory, const QueueLayout& layout, uint64_t features, QueueState state);
  struct Table {
    GuestAddress start;
    uint32_t count = 0;
    bool indirect = false;
  };
  Result<void> walk(Chain& chain, Table table, uint32_t index) const;
  Result<Table> indirect_table(const Table& holder, const spec::Descriptor& descriptor) const;
  Result<void> append(Chain& chain, const spec::Descriptor& descriptor) const;

  const GuestMemory* memory_;
  QueueLayout layout_;
  uint16_t size_;
  bool event_index_;
  bool indirect_;
  uint16_t next_available_;
  uint16_t next_used_;
  uint16_t signalled_used_;   // next_used_ at the last should_interrupt()
  uint16_t outstanding_ = 0;  // chains popped and not given back
  uint16_t unpublished_ = 0;  // of those, completed and not published
  // Of chains given back, to be used again; at most kMaxSpareBuffers.
  std::vector<std::vector<GuestRange>> spare_buffers_;
};

}  // namespace hutch::virtio
