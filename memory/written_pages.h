// Written pages: which pages of its image's memory a restored machine has written to, kept as a
// list in a file, and made the process's own ahead in a machine that goes on with the same image.
// What one machine needed for its first command, the next one does not fault in page by page.
//
// Pages that are only read are left out: the kernel maps those around a fault with it, and bringing
// them in costs more than it saves.
//
// The file is a list of pieces of 16 bytes: le64 first page, le64 pages; ascending. Page numbers
// are those of the image (memory_image.h).
#pragma once

#include <span>
#include <vector>

#include "memory/guest_memory.h"

namespace hutch {

// Of a list: 8 MiB. A machine that has written more than that did more than start.
constexpr uint64_t kMaxWrittenPages = 2048;

struct PagePiece {
  uint64_t first = 0;
  uint64_t count = 0;
  bool operator==(const PagePiece&) const = default;
};

// Those of `memory` that are the process's own by now; see open_page_map() for `page_map`. Errors:
// more than kMaxWrittenPages.
Result<std::vector<PagePiece>> find_written(const GuestMemory& memory, int page_map);

std::vector<std::byte> encode(std::span<const PagePiece> pieces);
// Errors: pieces that overlap, do not ascend or go beyond `pages`, the image's size; more than
// kMaxWrittenPages; a file that is cut short.
Result<std::vector<PagePiece>> decode_pieces(std::span<const std::byte> file, uint64_t pages);

// Makes them the process's own. What the host cannot do (Linux before 5.14, no memory left) is left
// to the guest's faults.
void bring_in(const GuestMemory& memory, std::span<const PagePiece> pieces);

}  // namespace hutch
