#include "memory/written_pages.h"

#include <doctest/doctest.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/sys.h"
#include "memory/memory_image.h"

using namespace hutch;

namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kMiB = 1 << 20;
const std::vector<GuestRange> kRanges{{GuestAddress(0), 40 * kMiB},
                                      {GuestAddress(1ull << 32), 2 * kMiB}};
constexpr uint64_t kPages = 42 * kMiB / kPage;

// Every page holds its number.
Fd full_image() {
  Fd file(::memfd_create("image", MFD_CLOEXEC));
  for (uint64_t page = 0; page < kPages; page++) {
    std::vector<uint64_t> content(kPage / 8, page);
    REQUIRE(write_all(file.get(), std::as_bytes(std::span(content))));
  }
  return file;
}

Result<std::vector<PagePiece>> written(const GuestMemory& memory) {
  Fd page_map = open_page_map().value();
  return find_written(memory, page_map.get());
}

}  // namespace

TEST_CASE("what was written is found as it was, and brought into another memory") {
  Fd image = full_image();
  GuestMemory memory = GuestMemory::create(kRanges, image.duplicate().value()).value();
  // The last page of the first region and the first one of the second follow in the image.
  for (uint64_t place : {5 * kPage, 6 * kPage, 30 * kMiB, 40 * kMiB - kPage, uint64_t{1} << 32})
    REQUIRE(memory.write(GuestAddress(place), ~place));
  CHECK(memory.read<uint64_t>(GuestAddress(100 * kPage)).value() == 100);
  const std::vector<PagePiece> pieces{{5, 2}, {30 * kMiB / kPage, 1}, {40 * kMiB / kPage - 1, 2}};
  CHECK(written(memory).value() == pieces);
  CHECK(decode_pieces(encode(pieces), kPages).value() == pieces);

  GuestMemory other = GuestMemory::create(kRanges, image.duplicate().value()).value();
  CHECK(written(other).value().empty());
  bring_in(other, pieces);
  CHECK(written(other).value() == pieces);
  // They are what the image has, not what the first one wrote.
  CHECK(other.read<uint64_t>(GuestAddress(6 * kPage)).value() == 6);
  CHECK(other.read<uint64_t>(GuestAddress(1ull << 32)).value() == 40 * kMiB / kPage);
}

TEST_CASE("a machine that wrote more than a start does has no list") {
  Fd image = full_image();
  GuestMemory memory = GuestMemory::create(kRanges, image.duplicate().value()).value();
  for (uint64_t page = 0; page < kMaxWrittenPages; page++)
    REQUIRE(memory.write(GuestAddress(2 * page * kPage), page));
  CHECK(written(memory).value().size() == kMaxWrittenPages);
  REQUIRE(memory.write(GuestAddress(kPage), 1));
  CHECK(!written(memory));
}

TEST_CASE("a list of pages that is none is refused") {
  auto refused = [](const std::vector<PagePiece>& pieces, uint64_t pages) {
    return !decode_pieces(encode(pieces), pages);
  };
  CHECK(!refused({}, 0));
  CHECK(!refused({{0, 10}, {10, 5}}, 15));
  CHECK(refused({{0, 10}, {10, 5}}, 14));
  CHECK(refused({{0, 10}, {9, 5}}, 15));
  CHECK(refused({{5, 1}, {1, 1}}, 15));
  CHECK(refused({{5, 0}}, 15));
  CHECK(refused({{15, 1}}, 15));
  CHECK(refused({{1, UINT64_MAX}}, UINT64_MAX));
  CHECK(refused({{UINT64_MAX, 1}}, UINT64_MAX));
  CHECK(!refused({{0, kMaxWrittenPages}}, UINT64_MAX));
  CHECK(refused({{0, kMaxWrittenPages}, {kMaxWrittenPages, 1}}, UINT64_MAX));
  std::vector<std::byte> file = encode(std::vector<PagePiece>{{5, 1}});
  CHECK(decode_pieces(file, 15));
  file.pop_back();
  CHECK(!decode_pieces(file, 15));
}
