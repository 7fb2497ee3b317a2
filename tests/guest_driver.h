// The driver's side of virtio for tests: it plays the guest over the same GuestMemory.
//
//   GuestQueue queue(memory, GuestAddress(0x10000), 16);
//   GuestRequest request = queue.readable(header).writable(512).submit();
//   ...
//   CHECK(queue.take_used()->length == 513);
//   CHECK(queue.written(request) == expected);
//
// Accesses of the rings follow the rules of a correct driver (acquire, release), so that a thread
// sanitizer checks the device's side. For the opposite there are the raw_... functions.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <initializer_list>
#include <mutex>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "bus/bus.h"
#include "bus/interrupt.h"
#include "memory/guest_memory.h"
#include "virtio/queue.h"
#include "virtio/spec.h"

namespace hutch::testing {

constexpr uint64_t kMiB = 1 << 20;

inline GuestMemory make_memory(uint64_t size = 4 * kMiB) {
  GuestRange range{GuestAddress(0), size};
  return GuestMemory::create(std::span(&range, 1)).value();
}

inline std::vector<std::byte> to_bytes(std::string_view text) {
  auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}
template <GuestPod T>
std::vector<std::byte> bytes_of(const T& value) {
  auto bytes = std::as_bytes(std::span(&value, 1));
  return {bytes.begin(), bytes.end()};
}
inline std::string to_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Counts interrupts; a test can wait for one that another thread raises.
class FakeInterrupt final : public Interrupt {
 public:
  void raise() override {
    std::lock_guard lock(mutex_);
    count_++;
    raised_.notify_all();
  }
  uint64_t count() const {
    std::lock_guard lock(mutex_);
    return count_;
  }
  // Whether there have been `count` interrupts by the time that `limit` is over.
  bool wait_for(uint64_t count, std::chrono::seconds limit = std::chrono::seconds(20)) {
    std::unique_lock lock(mutex_);
    return raised_.wait_for(lock, limit, [&] { return count_ >= count; });
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable raised_;
  uint64_t count_ = 0;
};

// Counts the reads of each byte of a range.
class ReadCounter final : public AccessObserver {
 public:
  explicit ReadCounter(GuestRange watched) : watched_(watched), reads_(watched.size) {}
  void on_read(GuestRange range) override {
    if (!watched_.contains(range)) return;
    uint64_t first = range.start.value() - watched_.start.value();
    for (uint64_t i = 0; i < range.size; i++) reads_[first + i]++;
  }
  void on_write(GuestRange) override {}
  int most() const { return std::ranges::max(reads_); }
  // How many bytes have been read at all.
  int64_t touched() const {
    return std::ranges::count_if(reads_, [](int count) { return count > 0; });
  }
  void clear() { std::ranges::fill(reads_, 0); }

 private:
  GuestRange watched_;
  std::vector<int> reads_;
};

// What submit() made available: where its buffers lie.
struct GuestRequest {
  uint16_t head = 0;
  std::vector<GuestRange> readable;
  std::vector<GuestRange> writable;
};

class GuestQueue;

// Collects the buffers of one request.
class RequestBuilder {
 public:
  explicit RequestBuilder(GuestQueue& queue) : queue_(queue) {}
  RequestBuilder&& readable(std::span<const std::byte> bytes) &&;
  RequestBuilder&& writable(uint64_t size) &&;
  RequestBuilder&& readable_at(GuestAddress address, uint32_t size) &&;
  RequestBuilder&& writable_at(GuestAddress address, uint32_t size) &&;
  // Puts the descriptors into an indirect table.
  RequestBuilder&& indirect() &&;
  // Makes the request available; the caller notifies.
  GuestRequest submit() &&;

 private:
  GuestQueue& queue_;
  std::vector<std::pair<GuestRange, bool>> buffers_;  // and whether the device writes it
  bool indirect_ = false;
};

class GuestQueue {
 public:
  // The rings lie from `base` on, page by page, then `arena_size` bytes for buffers, which are
  // reused round and round: a request's buffers live until that much has been allocated after.
  GuestQueue(const GuestMemory& memory, GuestAddress base, uint16_t size,
             uint64_t arena_size = kMiB)
      : memory_(memory), size_(size), arena_size_(arena_size) {
    uint64_t next = base.value();
    auto area = [&](uint64_t bytes) {
      GuestAddress start(next);
      next += (bytes + 4095) & ~4095ull;
      return start;
    };
    layout_.size = size;
    layout_.descriptors = area(16ull * size);
    layout_.available = area(6 + 2ull * size);
    layout_.used = area(6 + 8ull * size);
    arena_ = area(arena_size);
    clear();
  }

  // A fresh ring, as after a reset.
  void clear() {
    std::vector<std::byte> zeroes(arena_.value() - layout_.descriptors.value());
    REQUIRE(memory_.write_bytes(layout_.descriptors, zeroes));
    available_index_ = 0;
    used_index_ = 0;
    free_.clear();
    for (uint16_t i = 0; i < size_; i++) free_.push_back(i);
    chains_.assign(size_, {});
  }

  // A ring that has been in use: both indices stand at `index`.
  void start_at(uint16_t index) {
    used_index_ = index;
    REQUIRE(memory_.store_release(at(layout_.used, 2), index));
    raw_available_index(index);
  }

  const virtio::QueueLayout& layout() const { return layout_; }
  uint16_t size() const { return size_; }

  RequestBuilder readable(std::span<const std::byte> bytes) {
    return RequestBuilder(*this).readable(bytes);
  }
  RequestBuilder writable(uint64_t size) { return RequestBuilder(*this).writable(size); }
  RequestBuilder request() { return RequestBuilder(*this); }

  struct Used {
    uint16_t head = 0;
    uint32_t length = 0;
  };
  // The next request that the device has given back.
  std::optional<Used> take_used() {
    uint16_t index = memory_.load_acquire(at(layout_.used, 2)).value();
    if (index == used_index_) return std::nullopt;
    auto entry =
        memory_.read<virtio::spec::UsedEntry>(at(layout_.used, 4 + 8ull * (used_index_ % size_)))
            .value();
    used_index_++;
    Used used{static_cast<uint16_t>(entry.head), entry.length};
    REQUIRE(used.head < size_);
    for (uint16_t descriptor : chains_[used.head]) free_.push_back(descriptor);
    chains_[used.head].clear();
    return used;
  }
  uint16_t used_index() const { return memory_.load_acquire(at(layout_.used, 2)).value(); }

  std::vector<std::byte> bytes_at(std::span<const GuestRange> ranges) const {
    std::vector<std::byte> bytes;
    for (const GuestRange& range : ranges) {
      size_t before = bytes.size();
      bytes.resize(before + range.size);
      REQUIRE(memory_.read_bytes(range.start, std::span(bytes).subspan(before)));
    }
    return bytes;
  }
  // The writable part of a request.
  std::vector<std::byte> written(const GuestRequest& request) const {
    return bytes_at(request.writable);
  }

  // Section 2.7.7 and 2.7.10: what driver and device tell each other about notifications.
  void set_no_interrupt(bool wish) { REQUIRE(memory_.store_release(layout_.available, wish)); }
  void set_used_event(uint16_t index) {
    REQUIRE(memory_.store_release(at(layout_.available, 4 + 2ull * size_), index));
  }
  uint16_t used_flags() const { return memory_.load_acquire(layout_.used).value(); }
  uint16_t available_event() const {
    return memory_.load_acquire(at(layout_.used, 4 + 8ull * size_)).value();
  }

  // For a driver that breaks the rules.
  void raw_descriptor(uint16_t index, uint64_t address, uint32_t length, uint16_t flags,
                      uint16_t next) {
    raw_descriptor_at(at(layout_.descriptors, 16ull * index), address, length, flags, next);
  }
  void raw_descriptor_at(GuestAddress where, uint64_t address, uint32_t length, uint16_t flags,
                         uint16_t next) {
    REQUIRE(memory_.write(where, virtio::spec::Descriptor{address, length, flags, next}));
  }
  void raw_publish(uint16_t head) {
    REQUIRE(memory_.write(at(layout_.available, 4 + 2ull * (available_index_ % size_)),
                          virtio::spec::AvailableEntry(head)));
    available_index_++;
    REQUIRE(memory_.store_release(at(layout_.available, 2), available_index_));
  }
  void raw_available_index(uint16_t index) {
    available_index_ = index;
    REQUIRE(memory_.store_release(at(layout_.available, 2), index));
  }

  // `size` bytes of the arena.
  GuestAddress allocate(uint64_t size) {
    REQUIRE(size <= arena_size_);
    if (arena_next_ + size > arena_size_) arena_next_ = 0;
    GuestAddress start = at(arena_, arena_next_);
    arena_next_ += (size + 15) & ~15ull;
    return start;
  }
  const GuestMemory& memory() const { return memory_; }

 private:
  friend class RequestBuilder;
  static GuestAddress at(GuestAddress start, uint64_t offset) {
    return GuestAddress(start.value() + offset);
  }

  const GuestMemory& memory_;
  const uint16_t size_;
  const uint64_t arena_size_;
  virtio::QueueLayout layout_;
  GuestAddress arena_;
  uint64_t arena_next_ = 0;
  uint16_t available_index_ = 0;
  uint16_t used_index_ = 0;
  std::deque<uint16_t> free_;
  std::vector<std::vector<uint16_t>> chains_;  // by head: the descriptors in use
};

inline RequestBuilder&& RequestBuilder::readable(std::span<const std::byte> bytes) && {
  GuestAddress address = queue_.allocate(bytes.size());
  REQUIRE(queue_.memory_.write_bytes(address, bytes));
  buffers_.push_back({{address, bytes.size()}, false});
  return std::move(*this);
}
inline RequestBuilder&& RequestBuilder::writable(uint64_t size) && {
  buffers_.push_back({{queue_.allocate(size), size}, true});
  return std::move(*this);
}
inline RequestBuilder&& RequestBuilder::readable_at(GuestAddress address, uint32_t size) && {
  buffers_.push_back({{address, size}, false});
  return std::move(*this);
}
inline RequestBuilder&& RequestBuilder::writable_at(GuestAddress address, uint32_t size) && {
  buffers_.push_back({{address, size}, true});
  return std::move(*this);
}
inline RequestBuilder&& RequestBuilder::indirect() && {
  indirect_ = true;
  return std::move(*this);
}

inline GuestRequest RequestBuilder::submit() && {
  using namespace virtio::spec;
  GuestRequest request;
  std::vector<uint16_t> used;
  size_t needed = indirect_ ? 1 : buffers_.size();
  REQUIRE(queue_.free_.size() >= needed);
  for (size_t i = 0; i < needed; i++) {
    used.push_back(queue_.free_.front());
    queue_.free_.pop_front();
  }
  request.head = used.at(0);
  GuestAddress table =
      indirect_ ? queue_.allocate(16 * buffers_.size()) : queue_.layout_.descriptors;
  for (size_t i = 0; i < buffers_.size(); i++) {
    const auto& [range, is_writable] = buffers_[i];
    bool is_last = i + 1 == buffers_.size();
    size_t index = indirect_ ? i : used[i];
    size_t next = is_last ? 0 : indirect_ ? i + 1 : used[i + 1];
    auto flags = static_cast<uint16_t>((is_last ? 0 : kDescriptorNext) |
                                       (is_writable ? kDescriptorWrite : 0));
    queue_.raw_descriptor_at(GuestQueue::at(table, 16 * index), range.start.value(),
                             static_cast<uint32_t>(range.size), flags, static_cast<uint16_t>(next));
    (is_writable ? request.writable : request.readable).push_back(range);
  }
  if (indirect_)
    queue_.raw_descriptor(request.head, table.value(), static_cast<uint32_t>(16 * buffers_.size()),
                          kDescriptorIndirect, 0);
  queue_.chains_[request.head] = std::move(used);
  queue_.raw_publish(request.head);
  return request;
}

// Drives the registers of a virtio-mmio device as a driver does (virtio 1.2 section 3.1.1).
class MmioDriver {
 public:
  explicit MmioDriver(BusDevice& transport) : transport_(transport) {}

  uint32_t read(uint64_t offset) {
    le32 value(0);
    transport_.read(offset, std::span(reinterpret_cast<uint8_t*>(&value), sizeof value));
    return value;
  }
  void write(uint64_t offset, uint32_t value) {
    le32 wire(value);
    transport_.write(offset, std::span(reinterpret_cast<const uint8_t*>(&wire), sizeof wire));
  }
  uint32_t status() { return read(virtio::spec::kRegisterStatus); }
  void add_status(uint32_t bits) { write(virtio::spec::kRegisterStatus, status() | bits); }
  void reset() { write(virtio::spec::kRegisterStatus, 0); }

  uint64_t offered_features() {
    uint64_t features = 0;
    for (uint32_t i : {1u, 0u}) {
      write(virtio::spec::kRegisterDeviceFeaturesSelect, i);
      features = features << 32 | read(virtio::spec::kRegisterDeviceFeatures);
    }
    return features;
  }
  // Up to FEATURES_OK; returns whether the device accepted the features.
  bool negotiate(uint64_t features) {
    reset();
    add_status(virtio::spec::kStatusAcknowledge);
    add_status(virtio::spec::kStatusDriver);
    accept_features(features);
    add_status(virtio::spec::kStatusFeaturesOk);
    return (status() & virtio::spec::kStatusFeaturesOk) != 0;
  }
  void accept_features(uint64_t features) {
    for (uint32_t i : {0u, 1u}) {
      write(virtio::spec::kRegisterDriverFeaturesSelect, i);
      write(virtio::spec::kRegisterDriverFeatures, static_cast<uint32_t>(features >> (32 * i)));
    }
  }
  void configure(uint32_t index, const virtio::QueueLayout& layout) {
    using namespace virtio::spec;
    write(kRegisterQueueSelect, index);
    write(kRegisterQueueSize, layout.size);
    write_address(kRegisterQueueDescriptorsLow, layout.descriptors);
    write_address(kRegisterQueueDriverLow, layout.available);
    write_address(kRegisterQueueDeviceLow, layout.used);
    write(kRegisterQueueReady, 1);
  }
  // The whole of section 3.1.1 with the given queues, in order.
  void start(uint64_t features, std::initializer_list<const GuestQueue*> queues) {
    REQUIRE(negotiate(features | virtio::spec::kFeatureVersion1));
    uint32_t index = 0;
    for (const GuestQueue* queue : queues) configure(index++, queue->layout());
    add_status(virtio::spec::kStatusDriverOk);
  }
  void kick(uint32_t queue) { write(virtio::spec::kRegisterQueueNotify, queue); }
  bool needs_reset() { return (status() & virtio::spec::kStatusNeedsReset) != 0; }

 private:
  void write_address(uint64_t low, GuestAddress address) {
    write(low, static_cast<uint32_t>(address.value()));
    write(low + 4, static_cast<uint32_t>(address.value() >> 32));
  }

  BusDevice& transport_;
};

}  // namespace hutch::testing
