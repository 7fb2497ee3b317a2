#include "virtio/queue.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cassert>
#include <utility>

namespace hutch::virtio {
namespace {

// As many as a frame of 64 KiB needs when each buffer holds an Ethernet frame of the usual size.
constexpr size_t kMaxSpareBuffers = 64;

// Offsets within rings that Queue::create found to lie in RAM cannot wrap.
GuestAddress at(GuestAddress start, uint64_t offset) {
  return GuestAddress(start.value() + offset);
}

uint64_t available_ring_size(uint32_t size) {
  return spec::kRingEntries + sizeof(spec::AvailableEntry) * size + sizeof(le16);
}
uint64_t used_ring_size(uint32_t size) {
  return spec::kRingEntries + sizeof(spec::UsedEntry) * size + sizeof(le16);
}

Result<void> check_area(const GuestMemory& memory, const char* name, GuestAddress start,
                        uint64_t size, uint64_t alignment) {
  if (start.value() % alignment != 0)
    return fail(
        fmt::format("the {} at {:#x} is not aligned to {} bytes", name, start.value(), alignment));
  if (!memory.contains({start, size}))
    return fail(fmt::format("the {} at {:#x} is not in RAM", name, start.value()));
  return {};
}

}  // namespace

Result<Queue> Queue::create(const GuestMemory& memory, const QueueLayout& layout, uint16_t max_size,
                            uint64_t features, QueueState state) {
  if (!std::has_single_bit(layout.size) || layout.size > max_size ||
      layout.size > spec::kMaxQueueSize)
    return fail(
        fmt::format("queue size {} is not a power of two of at most {}", layout.size, max_size));
  TRY(check_area(memory, "descriptor table", layout.descriptors,
                 sizeof(spec::Descriptor) * layout.size, spec::kDescriptorTableAlignment));
  TRY(check_area(memory, "available ring", layout.available, available_ring_size(layout.size),
                 spec::kAvailableRingAlignment));
  TRY(check_area(memory, "used ring", layout.used, used_ring_size(layout.size),
                 spec::kUsedRingAlignment));
  return Queue(memory, layout, features, state);
}

Queue::Queue(const GuestMemory& memory, const QueueLayout& layout, uint64_t features,
             QueueState state)
    : memory_(&memory),
      layout_(layout),
      size_(static_cast<uint16_t>(layout.size)),
      event_index_((features & spec::kFeatureEventIndex) != 0),
      indirect_((features & spec::kFeatureIndirectDescriptors) != 0),
      next_available_(state.next_available),
      next_used_(state.next_used),
      signalled_used_(state.next_used) {}

Result<std::optional<Chain>> Queue::pop() {
  // Acquire: what the driver wrote before it moved the index is seen after this.
  uint16_t available = TRY(memory_->load_acquire(at(layout_.available, spec::kRingIndex)));
  uint16_t ahead = static_cast<uint16_t>(available - next_available_);
  if (ahead == 0) return std::nullopt;
  // Each request holds a descriptor of the table until it is used, so there are never more of
  // them than the table has. This also bounds what a driver can have in flight.
  if (ahead > size_ - outstanding_)
    return fail(
        fmt::format("the available index is {} requests ahead with {} in flight in a queue of {}",
                    ahead, outstanding_, size_));

  uint64_t slot = next_available_ % size_;
  uint16_t head = TRY(memory_->read<spec::AvailableEntry>(
      at(layout_.available, spec::kRingEntries + sizeof(spec::AvailableEntry) * slot)));
  if (head >= size_)
    return fail(fmt::format("available descriptor {} in a queue of {}", head, size_));

  std::vector<GuestRange> buffers;
  if (!spare_buffers_.empty()) {
    buffers = std::move(spare_buffers_.back());
    spare_buffers_.pop_back();
    buffers.clear();
  }
  Chain chain(*memory_, head, std::move(buffers));
  Result<void> walked = walk(chain, Table{layout_.descriptors, size_, false}, head);
  if (!walked) {
    chain.outstanding_ = false;
    return tl::unexpected(std::move(walked).error());
  }
  next_available_++;
  outstanding_++;
  return chain;
}

// Collects the buffers of the chain that starts at entry `index`. Each entry of a table can be
// visited only once, so a chain longer than its table is a loop.
Result<void> Queue::walk(Chain& chain, Table table, uint32_t index) const {
  uint32_t visited = 0;
  for (;;) {
    if (index >= table.count)
      return fail(fmt::format("descriptor {} in a table of {}", index, table.count));
    if (visited++ == table.count)
      return fail(fmt::format("a descriptor chain in a table of {} has a loop", table.count));
    const auto descriptor = TRY(memory_->read<spec::Descriptor>(
        at(table.start, sizeof(spec::Descriptor) * static_cast<uint64_t>(index))));
    const uint16_t flags = descriptor.flags;
    if ((flags & spec::kDescriptorIndirect) != 0) {
      table = TRY(indirect_table(table, descriptor));
      index = 0;
      visited = 0;
      continue;
    }
    TRY(append(chain, descriptor));
    if ((flags & spec::kDescriptorNext) == 0) return {};
    index = descriptor.next;
  }
}

// Section 2.7.5.3. The device ignores the write flag of the descriptor that refers to the table.
Result<Queue::Table> Queue::indirect_table(const Table& holder,
                                           const spec::Descriptor& descriptor) const {
  if (!indirect_) return fail("an indirect descriptor, which was not negotiated");
  if (holder.indirect) return fail("an indirect descriptor in an indirect table");
  if ((descriptor.flags & spec::kDescriptorNext) != 0)
    return fail("an indirect descriptor with a next one");
  const uint32_t length = descriptor.length;
  if (length == 0 || length % sizeof(spec::Descriptor) != 0 ||
      length / sizeof(spec::Descriptor) > kMaxIndirectDescriptors)
    return fail(fmt::format("an indirect table of {} bytes is not 1 to {} descriptors", length,
                            kMaxIndirectDescriptors));
  GuestAddress start(descriptor.address);
  if (!memory_->contains({start, length}))
    return fail(fmt::format("the indirect table at {:#x} is not in RAM", start.value()));
  return Table{start, static_cast<uint32_t>(length / sizeof(spec::Descriptor)), true};
}

Result<void> Queue::append(Chain& chain, const spec::Descriptor& descriptor) const {
  const bool writable = (descriptor.flags & spec::kDescriptorWrite) != 0;
  GuestRange buffer{GuestAddress(descriptor.address), descriptor.length};
  if (!writable && chain.writable_size_ > 0) return fail("a readable buffer behind a writable one");
  if (buffer.size == 0) return {};
  if (!memory_->contains(buffer))
    return fail(fmt::format("a buffer at {:#x} with {} bytes is not in RAM", buffer.start.value(),
                            buffer.size));
  (writable ? chain.writable_size_ : chain.readable_size_) += buffer.size;
  if (chain.readable_size_ + chain.writable_size_ > UINT32_MAX)
    return fail("a descriptor chain of 4 GiB or more");
  chain.buffers_.push_back(buffer);
  if (!writable) chain.readable_count_++;
  return {};
}

void Queue::undo_pop(Chain&& chain) {
  assert(outstanding_ > 0);
  abandon(std::move(chain));
  next_available_--;
  outstanding_--;
}

void Queue::abandon(Chain&& chain) {
  assert(chain.outstanding_);
  chain.outstanding_ = false;
  if (spare_buffers_.size() < kMaxSpareBuffers) spare_buffers_.push_back(std::move(chain.buffers_));
}

Result<void> Queue::complete(Chain&& chain, uint64_t written) {
  TRY(complete_unpublished(std::move(chain), written));
  return publish();
}

Result<void> Queue::complete_unpublished(Chain&& chain, uint64_t written) {
  spec::UsedEntry entry{chain.head_,
                        static_cast<uint32_t>(std::min(written, chain.writable_size_))};
  abandon(std::move(chain));
  uint64_t slot = next_used_ % size_;
  TRY(memory_->write(at(layout_.used, spec::kRingEntries + sizeof(entry) * slot), entry));
  next_used_++;
  unpublished_++;
  return {};
}

Result<void> Queue::publish() {
  if (unpublished_ == 0) return {};
  outstanding_ = static_cast<uint16_t>(outstanding_ - std::exchange(unpublished_, uint16_t{0}));
  // Release: the driver that sees the index also sees the entries and the buffers.
  return memory_->store_release(at(layout_.used, spec::kRingIndex), next_used_);
}

Result<bool> Queue::should_interrupt() {
  assert(unpublished_ == 0);
  uint16_t before = std::exchange(signalled_used_, next_used_);
  if (before == next_used_) return false;
  // The used index must be visible before the driver's wish is read: the driver writes its wish
  // first and looks at the index after that.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (!event_index_) {
    uint16_t flags = TRY(memory_->load_acquire(at(layout_.available, spec::kRingFlags)));
    return (flags & spec::kAvailableNoInterrupt) == 0;
  }
  // Section 2.7.7.2: whether the index has passed used_event, modulo 2^16.
  uint16_t event = TRY(memory_->load_acquire(
      at(layout_.available, spec::kRingEntries + sizeof(spec::AvailableEntry) * size_)));
  return static_cast<uint16_t>(next_used_ - event - 1) < static_cast<uint16_t>(next_used_ - before);
}

Result<bool> Queue::enable_notification(uint16_t known) {
  const auto expected = static_cast<uint16_t>(next_available_ + known);
  if (event_index_) {
    TRY(memory_->store_release(
        at(layout_.used, spec::kRingEntries + sizeof(spec::UsedEntry) * size_), expected));
  } else {
    TRY(memory_->store_release(at(layout_.used, spec::kRingFlags), 0));
  }
  // The wish must be visible before the index is read again, or both sides sleep.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  uint16_t available = TRY(memory_->load_acquire(at(layout_.available, spec::kRingIndex)));
  return available != expected;
}

Result<void> Queue::disable_notification() {
  // With event indices the driver does not notify until it passes the index given last.
  if (event_index_) return {};
  return memory_->store_release(at(layout_.used, spec::kRingFlags), spec::kUsedNoNotify);
}

}  // namespace hutch::virtio
