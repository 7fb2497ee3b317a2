#include "memory/written_pages.h"

#include <sys/mman.h>

#include <algorithm>

#include "base/sys.h"
#include "base/wire.h"

namespace hutch {
namespace {

constexpr uint64_t kPage = 4096;
// Of an entry of /proc/PID/pagemap.
constexpr uint64_t kPresent = 1ull << 63;
constexpr uint64_t kSwapped = 1ull << 62;
constexpr uint64_t kOfFile = 1ull << 61;
constexpr size_t kWindow = 4096;  // pages that are looked up at a time

struct Piece {
  le64 first;
  le64 count;
};
static_assert(sizeof(Piece) == 16);

bool is_written(uint64_t entry) {
  return (entry & (kPresent | kSwapped)) != 0 && (entry & kOfFile) == 0;
}

}  // namespace

Result<std::vector<PagePiece>> find_written(const GuestMemory& memory, int page_map) {
  std::vector<PagePiece> pieces;
  std::vector<uint64_t> entries(kWindow);
  uint64_t region_start = 0, written = 0;  // in pages
  for (const GuestMemory::Region& region : memory.regions()) {
    const uint64_t pages = region.range.size / kPage;
    for (uint64_t start = 0; start < pages; start += kWindow) {
      std::span<uint64_t> window = std::span(entries).first(std::min(kWindow, pages - start));
      TRY(read_exactly_at(
          page_map, std::as_writable_bytes(window),
          (reinterpret_cast<uintptr_t>(region.host) / kPage + start) * sizeof(uint64_t)));
      for (size_t i = 0; i < window.size(); i++) {
        if (!is_written(window[i])) continue;
        if (++written > kMaxWrittenPages)
          return fail(fmt::format("over {} pages were written to", kMaxWrittenPages));
        const uint64_t page = region_start + start + i;
        if (!pieces.empty() && pieces.back().first + pieces.back().count == page) {
          pieces.back().count++;
        } else {
          pieces.push_back({page, 1});
        }
      }
    }
    region_start += pages;
  }
  return pieces;
}

std::vector<std::byte> encode(std::span<const PagePiece> pieces) {
  std::vector<std::byte> file;
  for (const PagePiece& piece : pieces) {
    const Piece wire{piece.first, piece.count};
    auto bytes = std::as_bytes(std::span(&wire, 1));
    file.insert(file.end(), bytes.begin(), bytes.end());
  }
  return file;
}

Result<std::vector<PagePiece>> decode_pieces(std::span<const std::byte> file, uint64_t pages) {
  if (file.size() % sizeof(Piece) != 0) return fail("a list of pages that is cut short");
  std::vector<PagePiece> pieces;
  uint64_t end = 0, left = kMaxWrittenPages;
  for (; !file.empty(); file = file.subspan(sizeof(Piece))) {
    Piece wire;
    std::memcpy(&wire, file.data(), sizeof wire);
    const PagePiece piece{wire.first, wire.count};
    if (piece.count == 0 || piece.count > left || piece.first < end || piece.first >= pages ||
        piece.count > pages - piece.first)
      return fail(fmt::format("{} pages from {} on cannot be in a list of {}", piece.count,
                              piece.first, pages));
    end = piece.first + piece.count;
    left -= piece.count;
    pieces.push_back(piece);
  }
  return pieces;
}

void bring_in(const GuestMemory& memory, std::span<const PagePiece> pieces) {
  uint64_t start = 0;  // of the region, in pages
  for (const GuestMemory::Region& region : memory.regions()) {
    const uint64_t end = start + region.range.size / kPage;
    for (const PagePiece& piece : pieces) {
      const uint64_t first = std::max(piece.first, start);
      const uint64_t last = std::min(piece.first + piece.count, end);
      if (first < last)
        ::madvise(region.host + (first - start) * kPage, (last - first) * kPage,
                  MADV_POPULATE_WRITE);
    }
    start = end;
  }
}

}  // namespace hutch
