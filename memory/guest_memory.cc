#include "memory/guest_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "base/sys.h"

namespace hutch {
namespace {
constexpr uint64_t kPage = 4096;
constexpr uint64_t kHugePage = 2 << 20;
constexpr size_t kMincoreWindow = 64 << 20;
constexpr size_t kMaxImageMappings = 8192;
}  // namespace

Result<GuestMemory> GuestMemory::create(std::span<const GuestRange> ranges) {
  GuestMemory memory;
  uint64_t previous_end = 0;
  for (const GuestRange& range : ranges) {
    std::optional<GuestAddress> end = range.end();
    if (range.size == 0 || range.size % kPage != 0 || range.start.value() % kPage != 0 || !end ||
        range.start.value() < previous_end)
      return fail(
          fmt::format("a guest memory range at {:#x} of {} bytes is not page-aligned, "
                      "ascending and disjoint",
                      range.start.value(), range.size));
    previous_end = end->value();

    // Room to move the start up to a 2 MiB boundary, and at least one guard page on each side.
    size_t size = range.size + 2 * kHugePage;
    void* base =
        ::mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
      return fail_errno(errno, fmt::format("reserving {} MiB of guest memory", range.size >> 20),
                        "give the machine less memory with --memory");
    memory.mappings_.push_back({base, size});
    uintptr_t host = (reinterpret_cast<uintptr_t>(base) + kHugePage) & ~(kHugePage - 1);
    if (::mprotect(reinterpret_cast<void*>(host), range.size, PROT_READ | PROT_WRITE) < 0)
      return fail_errno(errno, "making guest memory accessible");
    // Guest memory must never reach a core file.
    ::madvise(reinterpret_cast<void*>(host), range.size, MADV_DONTDUMP);
    memory.regions_.push_back({range, reinterpret_cast<std::byte*>(host)});
  }
  if (memory.regions_.empty()) return fail("guest memory without a range");
  return memory;
}

Result<GuestMemory> GuestMemory::create(std::span<const GuestRange> ranges, Fd image) {
  GuestMemory memory = TRY(create(ranges));
  uint64_t size = TRY(file_size(image.get()));
  if (size != memory.size())
    return fail(fmt::format("the saved memory has {} bytes instead of {}", size, memory.size()));
  memory.image_ = std::move(image);
  uint64_t offset = 0;
  for (const Region& region : memory.regions_) {
    TRY(memory.map_image(region, offset));
    // The file's mappings are new ones.
    ::madvise(region.host, region.range.size, MADV_DONTDUMP);
    offset += region.range.size;
  }
  return memory;
}

// Only what holds data: a page of a tmpfs file that is touched through a mapping is there from then
// on, for all who have the file, even if one process alone has written to its own copy.
Result<void> GuestMemory::map_image(const Region& region, uint64_t offset) {
  const uint64_t end = offset + region.range.size;
  for (uint64_t at = offset; at < end;) {
    const off_t data = ::lseek(image_.get(), static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 && errno == ENXIO) return {};
    if (data < 0) return fail_errno(errno, "looking for data in saved memory");
    const uint64_t start = static_cast<uint64_t>(data) / kPage * kPage;
    if (start >= end) return {};
    at = end;
    // A process may have 65,530 mappings; all that is left is the last one.
    if (++image_mappings_ < kMaxImageMappings) {
      const off_t hole = ::lseek(image_.get(), data, SEEK_HOLE);
      if (hole < 0) return fail_errno(errno, "looking for holes in saved memory");
      at = std::min((static_cast<uint64_t>(hole) + kPage - 1) / kPage * kPage, end);
    }
    void* mapped =
        ::mmap(region.host + (start - offset), at - start, PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, image_.get(), static_cast<off_t>(start));
    if (mapped == MAP_FAILED) return fail_errno(errno, "mapping saved memory");
  }
  return {};
}

GuestMemory::GuestMemory(GuestMemory&& other) noexcept
    : regions_(std::move(other.regions_)),
      mappings_(std::exchange(other.mappings_, {})),
      image_(std::move(other.image_)),
      image_mappings_(other.image_mappings_),
      observer_(other.observer_) {}

GuestMemory::~GuestMemory() {
  for (const Mapping& mapping : mappings_) ::munmap(mapping.base, mapping.size);
}

uint64_t GuestMemory::size() const {
  uint64_t sum = 0;
  for (const Region& region : regions_) sum += region.range.size;
  return sum;
}

std::byte* GuestMemory::find(GuestRange range) const {
  for (const Region& region : regions_) {
    if (region.range.contains(range))
      return region.host + (range.start.value() - region.range.start.value());
  }
  return nullptr;
}

Result<std::byte*> GuestMemory::locate(GuestRange range) const {
  std::byte* host = find(range);
  if (host == nullptr)
    return fail(fmt::format("guest address {:#x} with {} bytes is not RAM", range.start.value(),
                            range.size));
  return host;
}

Result<void> GuestMemory::read_bytes(GuestAddress address, std::span<std::byte> bytes) const {
  GuestRange range{address, bytes.size()};
  const std::byte* host = TRY(locate(range));
  if (observer_ != nullptr) observer_->on_read(range);
  if (!bytes.empty()) std::memcpy(bytes.data(), host, bytes.size());
  // Keeps the compiler from reading guest memory again instead of the copy.
  std::atomic_signal_fence(std::memory_order_seq_cst);
  return {};
}

Result<void> GuestMemory::write_bytes(GuestAddress address,
                                      std::span<const std::byte> bytes) const {
  GuestRange range{address, bytes.size()};
  std::byte* host = TRY(locate(range));
  if (observer_ != nullptr) observer_->on_write(range);
  if (!bytes.empty()) std::memcpy(host, bytes.data(), bytes.size());
  return {};
}

Result<uint16_t> GuestMemory::load_acquire(GuestAddress address) const {
  GuestRange range{address, sizeof(uint16_t)};
  std::byte* host = TRY(locate(range));
  if (address.value() % sizeof(uint16_t) != 0)
    return fail(fmt::format("ring index at odd guest address {:#x}", address.value()));
  if (observer_ != nullptr) observer_->on_read(range);
  return std::atomic_ref(*reinterpret_cast<uint16_t*>(host)).load(std::memory_order_acquire);
}

Result<void> GuestMemory::store_release(GuestAddress address, uint16_t value) const {
  GuestRange range{address, sizeof(uint16_t)};
  std::byte* host = TRY(locate(range));
  if (address.value() % sizeof(uint16_t) != 0)
    return fail(fmt::format("ring index at odd guest address {:#x}", address.value()));
  if (observer_ != nullptr) observer_->on_write(range);
  std::atomic_ref(*reinterpret_cast<uint16_t*>(host)).store(value, std::memory_order_release);
  return {};
}

Result<iovec> GuestMemory::view(GuestRange range) const {
  return iovec {
    TRY(locate(range))
    , range.size
  };
}

Result<uint64_t> GuestMemory::resident_bytes() const {
  uint64_t pages = 0;
  std::array<unsigned char, kMincoreWindow / kPage> present;
  for (const Region& region : regions_) {
    for (uint64_t offset = 0; offset < region.range.size; offset += kMincoreWindow) {
      size_t size = std::min<uint64_t>(kMincoreWindow, region.range.size - offset);
      if (::mincore(region.host + offset, size, present.data()) < 0)
        return fail_errno(errno, "asking which guest pages are resident");
      pages += static_cast<uint64_t>(std::count_if(present.begin(), present.begin() + size / kPage,
                                                   [](unsigned char flags) { return flags & 1; }));
    }
  }
  return pages * kPage;
}

}  // namespace hutch
