#include "memory/memory_image.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/sys.h"

using namespace hutch;

namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kMiB = 1 << 20;
// Two regions with a hole between them, the first larger than what is looked up at a time.
const std::vector<GuestRange> kRanges{{GuestAddress(0), 40 * kMiB},
                                      {GuestAddress(1ull << 32), 2 * kMiB}};

Fd new_file() {
  return Fd(::memfd_create("image", MFD_CLOEXEC));
}

uint64_t blocks(const Fd& file) {
  struct stat status {};
  REQUIRE(::fstat(file.get(), &status) == 0);
  return static_cast<uint64_t>(status.st_blocks) * 512;
}

uint64_t at(const GuestMemory& memory, uint64_t address) {
  return memory.read<uint64_t>(GuestAddress(address)).value();
}

Fd save(const GuestMemory& memory, uint64_t bytes) {
  Fd page_map = open_page_map().value();
  Fd file = new_file();
  Result<uint64_t> written = write_memory_image(memory, page_map.get(), file.get());
  REQUIRE(written);
  CHECK(*written == bytes);
  CHECK(file_size(file.get()).value() == memory.size());
  CHECK(blocks(file) == bytes);
  return file;
}

}  // namespace

TEST_CASE("memory is saved with holes where it holds nothing, and mapped as it was") {
  GuestMemory memory = GuestMemory::create(kRanges).value();
  const std::vector<uint64_t> places{
      0,         kPage,         5 * kPage + 8, 16 * kMiB - 8,
      16 * kMiB, 40 * kMiB - 8, 1ull << 32,    (1ull << 32) + 2 * kMiB - 8};
  for (uint64_t place : places) REQUIRE(memory.write(GuestAddress(place), ~place));
  // Touched, and zero again: nothing to keep.
  REQUIRE(memory.write(GuestAddress(20 * kMiB), uint64_t{1}));
  REQUIRE(memory.write(GuestAddress(20 * kMiB), uint64_t{0}));
  // The three pages between the first ones are written as well.
  Fd file = save(memory, (places.size() + 3) * kPage);

  GuestMemory first = GuestMemory::create(kRanges, Fd(::dup(file.get()))).value();
  GuestMemory second = GuestMemory::create(kRanges, Fd(::dup(file.get()))).value();
  for (uint64_t place : places) CHECK(at(first, place) == ~place);
  CHECK(at(first, 20 * kMiB) == 0);
  CHECK(at(first, 30 * kMiB) == 0);
  // What one writes the other does not see, nor does the file.
  REQUIRE(first.write(GuestAddress(0), uint64_t{5}));
  CHECK(at(second, 0) == ~uint64_t{0});
  CHECK(at(GuestMemory::create(kRanges, Fd(::dup(file.get()))).value(), 0) == ~uint64_t{0});
}

TEST_CASE("what machines touch of an image's holes takes no space in the image") {
  GuestMemory memory = GuestMemory::create(kRanges).value();
  for (uint64_t place : {uint64_t{0}, 20 * kPage, 40 * kMiB - 8, uint64_t{1} << 32})
    REQUIRE(memory.write(GuestAddress(place), ~place));
  Fd file = save(memory, 4 * kPage);
  GuestMemory restored = GuestMemory::create(kRanges, Fd(::dup(file.get()))).value();
  // The last two follow each other in the file, and lie in two regions.
  CHECK(restored.image_mappings() == 4);
  for (uint64_t page = 0; page < 40 * kMiB / kPage; page += 7) {
    CHECK(at(restored, page * kPage + 16) == 0);
    REQUIRE(restored.write(GuestAddress(page * kPage + 16), page));
  }
  CHECK(at(restored, 20 * kPage) == ~(20 * kPage));
  CHECK(blocks(file) == 4 * kPage);
}

TEST_CASE("an image of more pieces than a process has mappings is mapped all the same") {
  constexpr uint64_t kPieces = 70'000, kDistance = 2;
  const std::vector<GuestRange> ranges{{GuestAddress(0), kPieces * kDistance * kPage}};
  Fd file = new_file();
  REQUIRE(::ftruncate(file.get(), static_cast<off_t>(ranges[0].size)) == 0);
  for (uint64_t piece = 0; piece < kPieces; piece++)
    REQUIRE(::pwrite(file.get(), &piece, sizeof piece,
                     static_cast<off_t>(piece * kDistance * kPage)) == sizeof piece);
  GuestMemory memory = GuestMemory::create(ranges, std::move(file)).value();
  size_t good = 0;
  for (uint64_t piece = 0; piece < kPieces; piece++)
    good += at(memory, piece * kDistance * kPage) == piece &&
            at(memory, (piece * kDistance + 1) * kPage) == 0;
  CHECK(good == kPieces);
}

TEST_CASE("what was mapped from an image is saved whole, touched or not") {
  GuestMemory memory = GuestMemory::create(kRanges).value();
  for (uint64_t page = 0; page < 6; page++)
    REQUIRE(memory.write(GuestAddress(page * 3 * kMiB), page + 1));
  GuestMemory restored = GuestMemory::create(kRanges, save(memory, 6 * kPage)).value();
  // Read, changed, made zero, new; the others are not looked at.
  CHECK(at(restored, 3 * kMiB) == 2);
  REQUIRE(restored.write(GuestAddress(6 * kMiB), uint64_t{77}));
  REQUIRE(restored.write(GuestAddress(9 * kMiB), uint64_t{0}));
  REQUIRE(restored.write(GuestAddress(1ull << 32), uint64_t{88}));
  GuestMemory again = GuestMemory::create(kRanges, save(restored, 6 * kPage)).value();
  CHECK(at(again, 0) == 1);
  CHECK(at(again, 3 * kMiB) == 2);
  CHECK(at(again, 6 * kMiB) == 77);
  CHECK(at(again, 9 * kMiB) == 0);
  CHECK(at(again, 12 * kMiB) == 5);
  CHECK(at(again, 15 * kMiB) == 6);
  CHECK(at(again, 1ull << 32) == 88);
}

TEST_CASE("an image of another size is refused, and a full disk is said") {
  Fd file = new_file();
  REQUIRE(::ftruncate(file.get(), 42 * kMiB - 1) == 0);
  Result<GuestMemory> memory = GuestMemory::create(kRanges, std::move(file));
  REQUIRE(!memory);
  CHECK(memory.error().message == "the saved memory has 44040191 bytes instead of 44040192");
  GuestMemory good = GuestMemory::create(kRanges).value();
  REQUIRE(good.write(GuestAddress(0), 1));
  Fd page_map = open_page_map().value();
  Fd full = open_file("/dev/full", O_WRONLY).value();
  CHECK(!write_memory_image(good, page_map.get(), full.get()));
}
