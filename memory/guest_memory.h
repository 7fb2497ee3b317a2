// GuestMemory: the guest's RAM, and the only door to it.
//
// Everything in here is guest-controlled and may change while it is read. Callers therefore copy a
// value out once (read) and work on the copy; nothing hands out a pointer for the VMM itself to
// read. view() exists only to give a buffer to the kernel (preadv, pwritev, getrandom), which does
// not interpret it. An address outside RAM, in a hole, or a range that wraps is an Error, never an
// access.
#pragma once

#include <sys/uio.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "memory/address.h"

namespace hutch {

template <typename T>
concept GuestPod = std::is_trivially_copyable_v<T> && std::is_standard_layout_v<T>;

// Told of each access, for tests that prove that nothing is read twice. Called on the accessing
// thread, before the copy.
class AccessObserver {
 public:
  virtual ~AccessObserver() = default;
  virtual void on_read(GuestRange range) = 0;
  virtual void on_write(GuestRange range) = 0;
};

class GuestMemory {
 public:
  struct Region {
    GuestRange range;
    std::byte* host = nullptr;  // aligned to 2 MiB
  };

  // Reserves memory for the ranges: disjoint, ascending, page-aligned. Nothing is resident until it
  // is touched; each region has inaccessible guard pages on both sides. Errors: bad ranges, ENOMEM.
  static Result<GuestMemory> create(std::span<const GuestRange> ranges);
  // The same with the content of `image`, which holds the ranges one after another (memory_image.h)
  // and is shared by all who use it: what is written stays private, and its holes stay holes. The
  // image must not change as long as the memory lives. Errors: an image of another size.
  static Result<GuestMemory> create(std::span<const GuestRange> ranges, Fd image);
  GuestMemory(GuestMemory&& other) noexcept;
  GuestMemory& operator=(GuestMemory&&) = delete;
  ~GuestMemory();

  std::span<const Region> regions() const { return regions_; }
  uint64_t size() const;  // bytes in all regions

  // Whether the whole range lies in one region.
  bool contains(GuestRange range) const { return find(range) != nullptr; }

  // Copies a value out of guest memory, once. Any thread.
  template <GuestPod T>
  Result<T> read(GuestAddress address) const {
    T value;
    TRY(read_bytes(address, std::as_writable_bytes(std::span(&value, 1))));
    return value;
  }
  // Copies a value into guest memory. Any thread.
  template <GuestPod T>
  Result<void> write(GuestAddress address, const T& value) const {
    return write_bytes(address, std::as_bytes(std::span(&value, 1)));
  }
  Result<void> read_bytes(GuestAddress address, std::span<std::byte> bytes) const;
  Result<void> write_bytes(GuestAddress address, std::span<const std::byte> bytes) const;

  // Ring indices: one untorn 16-bit access, ordered before what follows (acquire) or after what
  // came before (release). The address must be 2-byte aligned.
  Result<uint16_t> load_acquire(GuestAddress address) const;
  Result<void> store_release(GuestAddress address, uint16_t value) const;

  // A buffer for the kernel to fill or drain; the VMM itself must not look into it.
  Result<iovec> view(GuestRange range) const;

  // The image it was created with; not open: none.
  int image() const { return image_.get(); }
  // Pieces of the image that were mapped.
  size_t image_mappings() const { return image_mappings_; }

  // Bytes of guest memory that are resident on the host. Costs one system call per 64 MiB.
  Result<uint64_t> resident_bytes() const;

  void set_observer(AccessObserver* observer) { observer_ = observer; }

 private:
  GuestMemory() = default;
  Result<void> map_image(const Region& region, uint64_t offset);
  std::byte* find(GuestRange range) const;
  Result<std::byte*> locate(GuestRange range) const;

  struct Mapping {
    void* base = nullptr;
    size_t size = 0;
  };
  std::vector<Region> regions_;
  std::vector<Mapping> mappings_;
  Fd image_;
  size_t image_mappings_ = 0;
  AccessObserver* observer_ = nullptr;
};

}  // namespace hutch
