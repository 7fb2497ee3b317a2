#include "memory/memory_image.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "base/sys.h"

namespace hutch {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kPresent = 1ull << 63;
constexpr uint64_t kSwapped = 1ull << 62;
// Pages between others that are written although they are zeros: each piece of the file is a system
// call and a mapping more for whoever goes on with it.
constexpr size_t kMaxGap = 15;
// Pages that are looked up at a time: 16 MiB of guest memory.
constexpr size_t kWindow = 4096;

bool is_zero(const std::byte* page) {
  const auto* words = reinterpret_cast<const uint64_t*>(page);
  // In steps, so that a page that is in use costs one.
  for (size_t i = 0; i < kPage / 8; i += 8) {
    uint64_t sum = 0;
    for (size_t j = 0; j < 8; j++) sum |= words[i + j];
    if (sum != 0) return false;
  }
  return true;
}

// The pages of one window that may hold something: those the process has, and those that the image
// below has and nobody has looked at yet.
class Window {
 public:
  Result<void> look(int page_map, const std::byte* host, size_t pages) {
    std::span<uint64_t> entries = std::span(entries_).first(pages);
    TRY(read_exactly_at(page_map, std::as_writable_bytes(entries),
                        reinterpret_cast<uintptr_t>(host) / kPage * sizeof(uint64_t)));
    for (size_t i = 0; i < pages; i++) used_[i] = (entries[i] & (kPresent | kSwapped)) != 0;
    return {};
  }
  // `offset`: of the window in the image.
  Result<void> add_image(int image, uint64_t offset, size_t pages) {
    const uint64_t end = offset + pages * kPage;
    for (uint64_t at = offset; at < end;) {
      off_t data = ::lseek(image, static_cast<off_t>(at), SEEK_DATA);
      if (data < 0 && errno == ENXIO) return {};
      if (data < 0) return fail_errno(errno, "looking for data in saved memory");
      if (static_cast<uint64_t>(data) >= end) return {};
      off_t hole = ::lseek(image, data, SEEK_HOLE);
      if (hole < 0) return fail_errno(errno, "looking for holes in saved memory");
      uint64_t last = std::min<uint64_t>(static_cast<uint64_t>(hole), end);
      for (uint64_t page = static_cast<uint64_t>(data) / kPage; page * kPage < last; page++)
        used_[page - offset / kPage] = true;
      at = last;
    }
    return {};
  }
  bool is_used(size_t page) const { return used_[page]; }

 private:
  std::array<uint64_t, kWindow> entries_;
  std::array<bool, kWindow> used_;
};

Result<void> write_at(int file, std::span<const std::byte> bytes, uint64_t offset) {
  while (!bytes.empty()) {
    ssize_t count = ::pwrite(file, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0)
      return fail_errno(count < 0 ? errno : ENOSPC, "writing saved memory",
                        "make room where snapshots lie");
    bytes = bytes.subspan(static_cast<size_t>(count));
    offset += static_cast<uint64_t>(count);
  }
  return {};
}

}  // namespace

Result<Fd> open_page_map() {
  return open_file("/proc/self/pagemap", O_RDONLY);
}

Result<uint64_t> write_memory_image(const GuestMemory& memory, int page_map, int file) {
  if (::ftruncate(file, static_cast<off_t>(memory.size())) < 0)
    return fail_errno(errno, "making a file for saved memory");
  auto window = std::make_unique<Window>();
  uint64_t written = 0;
  uint64_t region_offset = 0;
  for (const GuestMemory::Region& region : memory.regions()) {
    for (uint64_t start = 0; start < region.range.size; start += kWindow * kPage) {
      const std::byte* host = region.host + start;
      const uint64_t offset = region_offset + start;
      size_t pages = std::min<uint64_t>(kWindow, (region.range.size - start) / kPage);
      TRY(window->look(page_map, host, pages));
      if (memory.image() >= 0) TRY(window->add_image(memory.image(), offset, pages));
      auto is_data = [&](size_t page) {
        return window->is_used(page) && !is_zero(host + page * kPage);
      };
      for (size_t page = 0; page < pages; page++) {
        if (!is_data(page)) continue;
        size_t end = page + 1;
        for (size_t next = end; next < pages && next - end <= kMaxGap; next++)
          if (is_data(next)) end = next + 1;
        TRY(write_at(file, {host + page * kPage, (end - page) * kPage}, offset + page * kPage));
        written += (end - page) * kPage;
        page = end;
      }
    }
    region_offset += region.range.size;
  }
  return written;
}

}  // namespace hutch
