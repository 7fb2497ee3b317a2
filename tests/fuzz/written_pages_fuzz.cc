// Fuzzes the list of pages that a restored machine's process reads before the guest runs. Checked:
// what was read lies in the image, is no more than a list may have, and is written as it was read.
#include <cstdlib>

#include "memory/written_pages.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace hutch;
  if (size == 0) return 0;
  // The image's size: 1 page to 2^63 of them.
  const uint64_t pages = uint64_t{1} << (data[0] % 64);
  auto file = std::as_bytes(std::span(data, size)).subspan(1);
  auto pieces = decode_pieces(file, pages);
  if (!pieces) return 0;
  uint64_t end = 0, sum = 0;
  for (const PagePiece& piece : *pieces) {
    if (piece.count == 0 || piece.first < end) std::abort();
    end = piece.first + piece.count;
    sum += piece.count;
  }
  if (end > pages || sum > kMaxWrittenPages) std::abort();
  std::vector<std::byte> again = encode(*pieces);
  if (!std::equal(again.begin(), again.end(), file.begin(), file.end())) std::abort();
  return 0;
}
