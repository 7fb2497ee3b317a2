// FuzzRing: a driver's rings for fuzz targets, right by default and wrong where the input says so.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "bus/interrupt.h"
#include "memory/guest_memory.h"
#include "tests/fuzz/fuzz_input.h"
#include "virtio/device.h"
#include "virtio/queue.h"
#include "virtio/spec.h"

namespace hutch::fuzz {

constexpr uint64_t kRam = 4 << 20;

// One memory for all runs of a process: mapping it anew would take most of the time.
inline GuestMemory& memory() {
  static GuestMemory* const kMemory = [] {
    // A hole at 2 MiB, and RAM behind 4 GiB.
    std::array ranges{GuestRange{GuestAddress(0), kRam / 2},
                      GuestRange{GuestAddress(4ull << 30), kRam / 2}};
    return new GuestMemory(GuestMemory::create(ranges).value());
  }();
  return *kMemory;
}

class CountingInterrupt final : public Interrupt {
 public:
  void raise() override { count++; }
  uint64_t count = 0;
};

class FuzzRing {
 public:
  static constexpr uint64_t kBytes = 64 * 1024;  // rings, then room for buffers
  static constexpr uint64_t kArena = 16 * 1024;

  FuzzRing(GuestAddress base, uint16_t size)
      : base_(base),
        size_(size),
        layout_{.size = size,
                .descriptors = base,
                .available = GuestAddress(base.value() + 0x1000),
                .used = GuestAddress(base.value() + 0x2000)} {
    clear();
  }

  // Zero rings: as after a reset. Of the buffers, what one run has used.
  void clear() {
    static constexpr std::array<std::byte, 4096> kZeroes{};
    for (uint64_t page = 0; page < 3; page++) write(base_.value() + page * 0x1000, kZeroes);
    available_ = 0;
    next_descriptor_ = 0;
    next_buffer_ = kArena;
    is_spoiled_ = false;
  }
  // Whether the driver has broken a rule since clear().
  bool is_spoiled() const { return is_spoiled_; }

  const virtio::QueueLayout& layout() const { return layout_; }

  // Room for `size` bytes; starts again at the arena's start when it is full.
  GuestAddress allocate(uint64_t size) {
    if (next_buffer_ + size > kBytes) next_buffer_ = kArena;
    GuestAddress address(base_.value() + next_buffer_);
    next_buffer_ += size;
    return address;
  }
  GuestRange place(std::span<const std::byte> bytes) {
    GuestAddress address = allocate(bytes.size());
    write(address.value(), bytes);
    return {address, bytes.size()};
  }

  struct Buffer {
    GuestRange range;
    bool writable = false;
  };
  // Makes a request of the buffers available, directly or by an indirect table.
  void submit(FuzzInput& input, std::span<const Buffer> buffers) {
    if (buffers.empty()) return;
    const bool indirect = buffers.size() > 8 || input.byte() % 4 == 1;
    const auto head = static_cast<uint16_t>(next_descriptor_ % size_);
    if (indirect) {
      GuestAddress table = allocate(16 * buffers.size());
      for (size_t i = 0; i < buffers.size(); i++)
        put(input, table, i, buffers[i], i + 1 < buffers.size(), static_cast<uint16_t>(i + 1));
      virtio::spec::Descriptor holder{table.value(), static_cast<uint32_t>(16 * buffers.size()),
                                      virtio::spec::kDescriptorIndirect, 0};
      spoil(input, holder);
      write_value(layout_.descriptors.value() + 16ull * head, holder);
      next_descriptor_++;
    } else {
      for (size_t i = 0; i < buffers.size(); i++) {
        size_t index = (head + i) % size_;
        put(input, layout_.descriptors, index, buffers[i], i + 1 < buffers.size(),
            static_cast<uint16_t>((index + 1) % size_));
      }
      next_descriptor_ += static_cast<uint32_t>(buffers.size());
    }
    publish(input, head);
  }
  void publish(FuzzInput& input, uint16_t head) {
    if (input.rarely()) {
      head = input.take<uint16_t>();
      is_spoiled_ = true;
    }
    write_value(layout_.available.value() + 4 + 2ull * (available_ % size_), le16(head));
    available_++;
    if (input.rarely()) {
      available_ = input.take<uint16_t>();
      is_spoiled_ = true;
    }
    store(layout_.available.value() + 2, available_);
  }
  void set_event(uint16_t index) { store(layout_.available.value() + 4 + 2ull * size_, index); }
  uint16_t used_index() const {
    return memory().load_acquire(GuestAddress(layout_.used.value() + 2)).value();
  }

 private:
  void put(FuzzInput& input, GuestAddress table, size_t index, const Buffer& buffer, bool has_next,
           uint16_t next) {
    virtio::spec::Descriptor descriptor{
        buffer.range.start.value(), static_cast<uint32_t>(buffer.range.size),
        static_cast<uint16_t>((has_next ? virtio::spec::kDescriptorNext : 0) |
                              (buffer.writable ? virtio::spec::kDescriptorWrite : 0)),
        next};
    spoil(input, descriptor);
    write_value(table.value() + 16ull * index, descriptor);
  }
  void spoil(FuzzInput& input, virtio::spec::Descriptor& descriptor) {
    if (!input.rarely()) return;
    is_spoiled_ = true;
    switch (input.below(6)) {
      case 0:
        descriptor.address = input.take<uint64_t>();
        break;
      case 1:
        descriptor.address = kRam / 2 - input.below(256);
        break;
      case 2:
        descriptor.length = input.take<uint32_t>();
        break;
      case 3:
        descriptor.flags = input.take<uint16_t>();
        break;
      case 4:
        descriptor.next = input.take<uint16_t>();
        break;
      default:
        descriptor.flags = static_cast<uint16_t>(descriptor.flags ^ 1u << input.below(3));
    }
  }
  template <typename T>
  void write_value(uint64_t address, const T& value) {
    write(address, std::as_bytes(std::span(&value, 1)));
  }
  static void write(uint64_t address, std::span<const std::byte> bytes) {
    FUZZ_CHECK(memory().write_bytes(GuestAddress(address), bytes).has_value());
  }
  static void store(uint64_t address, uint16_t value) {
    FUZZ_CHECK(memory().store_release(GuestAddress(address), value).has_value());
  }

  GuestAddress base_;
  uint16_t size_;
  virtio::QueueLayout layout_;
  uint16_t available_ = 0;
  uint32_t next_descriptor_ = 0;
  uint64_t next_buffer_ = kArena;
  bool is_spoiled_ = false;
};

// Starts queues of a device without a transport: a run then costs a few system calls only.
class FuzzQueues {
 public:
  FuzzQueues(virtio::Device& device, std::span<FuzzRing> rings) : device_(device), rings_(rings) {
    for (size_t i = 0; i < rings.size(); i++) events_.push_back(EventFd::create().value());
  }

  void start(uint64_t features) {
    is_broken_ = false;
    for (size_t i = 0; i < rings_.size(); i++) {
      rings_[i].clear();
      start_queue(i, features, {});
    }
  }
  // Stops the queues in the middle of what they do, and goes on from there.
  void pause() {
    states_.clear();
    for (size_t i = 0; i < rings_.size(); i++)
      states_.push_back(device_.stop_queue(static_cast<uint16_t>(i)).value());
  }
  void resume(uint64_t features) {
    for (size_t i = 0; i < rings_.size(); i++) start_queue(i, features, states_[i]);
  }
  void stop() {
    for (size_t i = 0; i < rings_.size(); i++) device_.stop_queue(static_cast<uint16_t>(i));
    device_.reset();
    for (const EventFd& event : events_) event.drain();
  }
  void kick(size_t index) { events_[index].signal(); }
  bool is_broken() const { return is_broken_; }

 private:
  void start_queue(size_t index, uint64_t features, virtio::QueueState state) {
    const virtio::QueueLayout& layout = rings_[index].layout();
    auto size = static_cast<uint16_t>(layout.size);
    virtio::QueueResources resources{
        .queue = virtio::Queue::create(memory(), layout, size, features, state).value(),
        .notify = &events_[index],
        .interrupt = &interrupt_,
        .broken = [this](const Error&) { is_broken_ = true; }};
    FUZZ_CHECK(device_.start_queue(static_cast<uint16_t>(index), std::move(resources), features));
  }

  virtio::Device& device_;
  std::span<FuzzRing> rings_;
  std::vector<EventFd> events_;
  std::vector<virtio::QueueState> states_;  // while paused
  CountingInterrupt interrupt_;
  bool is_broken_ = false;
};

}  // namespace hutch::fuzz
