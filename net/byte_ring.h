// ByteRing: the bytes that wait in one direction of one flow, in bounded memory. BufferBudget: the
// bound of all of them together.
#pragma once

#include <array>
#include <cassert>
#include <cstddef>
#include <memory>
#include <span>

namespace hutch::net {

// How much memory all rings may have, beyond the least that each always may.
class BufferBudget {
 public:
  explicit BufferBudget(size_t limit) : limit_(limit) {}
  BufferBudget(const BufferBudget&) = delete;
  BufferBudget& operator=(const BufferBudget&) = delete;
  ~BufferBudget() { assert(used_ == 0); }

  bool take(size_t size) {
    if (size > left()) return false;
    used_ += size;
    return true;
  }
  void give(size_t size) { used_ -= size; }
  size_t left() const { return limit_ - used_; }
  size_t used() const { return used_; }

 private:
  const size_t limit_;
  size_t used_ = 0;
};

using Pieces = std::array<std::span<const std::byte>, 2>;

// Has no memory until it holds bytes, then kLeast, then grows fourfold up to kMost. Until bytes are
// taken out for the first time all lie in one piece.
class ByteRing {
 public:
  static constexpr size_t kLeast = 4 * 1024;  // outside the budget
  static constexpr size_t kMost = 256 * 1024;

  explicit ByteRing(BufferBudget& budget) : budget_(budget) {}
  ByteRing(const ByteRing&) = delete;
  ByteRing& operator=(const ByteRing&) = delete;
  ~ByteRing() { clear(); }

  bool empty() const { return size_ == 0; }
  size_t size() const { return size_; }
  size_t capacity() const { return capacity_; }
  // How many bytes it could hold if it grew now.
  size_t potential() const;

  // Grows if it can, so that there is room for `wanted` more bytes; returns how much there is.
  size_t make_room(size_t wanted);
  // The room there is, to be written to; then produced().
  std::array<std::span<std::byte>, 2> room();
  void produced(size_t count);
  // Copies as much of `bytes` as it has, or can make, room for; returns how much.
  size_t append(std::span<const std::byte> bytes);

  // `count` bytes from `offset` on, which are there.
  Pieces bytes(size_t offset, size_t count) const;
  Pieces bytes() const { return bytes(0, size_); }
  void consume(size_t count);
  // Drops all bytes and the memory.
  void clear();

 private:
  void grow(size_t capacity);

  BufferBudget& budget_;
  std::unique_ptr<std::byte[]> memory_;
  size_t capacity_ = 0;  // kLeast times a power of four
  size_t start_ = 0;
  size_t size_ = 0;
};

}  // namespace hutch::net
