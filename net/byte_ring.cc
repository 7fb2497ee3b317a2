#include "net/byte_ring.h"

#include <algorithm>
#include <cstring>

namespace hutch::net {
namespace {
constexpr size_t kFactor = 4;
}

size_t ByteRing::potential() const {
  size_t capacity = std::max(capacity_, kLeast);
  while (capacity < kMost && capacity * kFactor - std::max(capacity_, kLeast) <= budget_.left())
    capacity *= kFactor;
  return capacity;
}

size_t ByteRing::make_room(size_t wanted) {
  if (capacity_ - size_ < wanted) {
    size_t capacity = std::max(capacity_, kLeast);
    while (capacity < size_ + wanted && capacity < kMost) capacity *= kFactor;
    // What is there already is paid for.
    const size_t paid = std::max(capacity_, kLeast);
    while (capacity > paid && !budget_.take(capacity - paid)) capacity /= kFactor;
    if (capacity > capacity_) grow(capacity);
  }
  return capacity_ - size_;
}

// Into larger memory, from whose beginning on the bytes then lie.
void ByteRing::grow(size_t capacity) {
  auto memory = std::make_unique_for_overwrite<std::byte[]>(capacity);
  size_t done = 0;
  for (std::span<const std::byte> piece : bytes()) {
    if (!piece.empty()) std::memcpy(memory.get() + done, piece.data(), piece.size());
    done += piece.size();
  }
  memory_ = std::move(memory);
  capacity_ = capacity;
  start_ = 0;
}

std::array<std::span<std::byte>, 2> ByteRing::room() {
  if (capacity_ == 0) return {};
  const size_t free = capacity_ - size_;
  const size_t from = (start_ + size_) % capacity_;
  const size_t first = std::min(free, capacity_ - from);
  return {std::span(memory_.get() + from, first), std::span(memory_.get(), free - first)};
}

void ByteRing::produced(size_t count) {
  assert(count <= capacity_ - size_);
  size_ += count;
}

size_t ByteRing::append(std::span<const std::byte> bytes) {
  const size_t count = std::min(bytes.size(), make_room(bytes.size()));
  size_t done = 0;
  for (std::span<std::byte> piece : room()) {
    const size_t part = std::min(piece.size(), count - done);
    if (part > 0) std::memcpy(piece.data(), bytes.data() + done, part);
    done += part;
  }
  produced(count);
  return count;
}

Pieces ByteRing::bytes(size_t offset, size_t count) const {
  assert(offset <= size_ && count <= size_ - offset);
  if (count == 0) return {};
  const size_t from = (start_ + offset) % capacity_;
  const size_t first = std::min(count, capacity_ - from);
  return {std::span<const std::byte>(memory_.get() + from, first),
          std::span<const std::byte>(memory_.get(), count - first)};
}

void ByteRing::consume(size_t count) {
  assert(count <= size_);
  size_ -= count;
  // An empty ring begins anew: fewer pieces, and the cache's memory again.
  start_ = size_ == 0 ? 0 : (start_ + count) % capacity_;
}

void ByteRing::clear() {
  if (capacity_ > kLeast) budget_.give(capacity_ - kLeast);
  memory_.reset();
  capacity_ = start_ = size_ = 0;
}

}  // namespace hutch::net
