// Layers of a disk against a plain copy of what it should hold.
#include <array>
#include <random>

#include "virtio/block/test_disk.h"

namespace hutch::virtio::block {
namespace {

using namespace test;

TEST_CASE("a new disk reads as its base, and costs no space") {
  Disk disk;
  CHECK(disk.layered->size() == kSize);
  CHECK(read(*disk.layered, 3 * kCluster, kCluster + 512) == filled(kCluster + 512, 'b'));
  CHECK(read(*disk.layered, 10 * kCluster, kCluster) == filled(kCluster, 0));
  CHECK(space(disk.tops[0]) <= 2 * kCluster);
}

TEST_CASE("a write in part of a cluster keeps the rest, and never reaches the base") {
  Disk disk;
  REQUIRE(write(*disk.layered, 3 * kCluster + 512, 512, 'x'));
  CHECK(read(*disk.layered, 3 * kCluster, 512) == filled(512, 'b'));
  CHECK(read(*disk.layered, 3 * kCluster + 512, 512) == filled(512, 'x'));
  CHECK(read(*disk.layered, 3 * kCluster + 1024, kCluster - 512) == filled(kCluster - 512, 'b'));
  CHECK(read(*backend_of(disk.base), 3 * kCluster, kCluster) == filled(kCluster, 'b'));
  // The last cluster is a part of one.
  REQUIRE(write(*disk.layered, kSize - 512, 512, 'y'));
  CHECK(read(*disk.layered, kSize - 1024, 512) == filled(512, 'b'));
  CHECK(read(*disk.layered, kSize - 512, 512) == filled(512, 'y'));
}

TEST_CASE("what was flushed is there when the disk is opened again; zeroes hide what is below") {
  Disk disk;
  REQUIRE(write(*disk.layered, kCluster, 3 * kCluster, 'x'));
  REQUIRE(disk.layered->write_zeroes(512, 2 * kCluster, true));
  REQUIRE(disk.layered->write_zeroes(kSize - kCluster, kCluster, false));
  REQUIRE(disk.layered->flush());
  auto again = disk.reopen().value();
  CHECK(read(*again, 0, 512) == filled(512, 'b'));
  CHECK(read(*again, 512, 2 * kCluster) == filled(2 * kCluster, 0));
  CHECK(read(*again, 2 * kCluster + 512, 2 * kCluster - 512) == filled(2 * kCluster - 512, 'x'));
  CHECK(read(*again, kSize - kCluster, kCluster) == filled(kCluster, 0));
}

TEST_CASE("what was not flushed is not there") {
  Disk disk;
  REQUIRE(disk.layered->flush());
  REQUIRE(write(*disk.layered, 3 * kCluster, kCluster, 'x'));
  CHECK(read(*disk.reopen().value(), 3 * kCluster, kCluster) == filled(kCluster, 'b'));
}

TEST_CASE("discard gives the private layer's space back and leaves those below alone") {
  Disk disk;
  REQUIRE(write(*disk.layered, 0, 1 << 20, 'x'));
  const uint64_t full = space(disk.tops[0]);
  REQUIRE(disk.layered->discard(512, (1 << 20) - 512));
  CHECK(space(disk.tops[0]) + (1 << 20) - 2 * kCluster <= full);
  CHECK(read(*disk.layered, 0, kCluster) == filled(kCluster, 'x'));
  REQUIRE(disk.layered->discard(kSize - 2 * kCluster, 2 * kCluster));
  CHECK(read(*backend_of(disk.base), kSize - kCluster, kCluster) == filled(kCluster, 'b'));
}

TEST_CASE("a frozen layer is shared: what either side writes afterwards is its own") {
  Disk disk;
  REQUIRE(write(*disk.layered, 5 * kCluster, kCluster, '1'));
  Result<Delta> old = disk.freeze();
  REQUIRE(old);
  CHECK(old->header().id == disk.layered->frozen().front().id);
  auto fork = disk.fork();
  CHECK(fork->frozen() == disk.layered->frozen());
  const uint64_t frozen = space(disk.tops[0]);
  REQUIRE(write(*disk.layered, 5 * kCluster + 1024, 512, 'p'));
  REQUIRE(write(*fork, 5 * kCluster + 512, 512, 'f'));
  CHECK(read(*disk.layered, 5 * kCluster + 512, 512) == filled(512, '1'));
  CHECK(read(*disk.layered, 5 * kCluster + 1024, 512) == filled(512, 'p'));
  CHECK(read(*fork, 5 * kCluster + 512, 512) == filled(512, 'f'));
  CHECK(read(*fork, 5 * kCluster + 1024, 512) == filled(512, '1'));
  CHECK(space(disk.tops[0]) == frozen);
  REQUIRE(disk.freeze());
  REQUIRE(disk.layered->flush());
  auto second = disk.fork();
  CHECK(second->frozen().size() == 2);
  CHECK(read(*second, 5 * kCluster + 1024, 512) == filled(512, 'p'));
}

TEST_CASE("a flush after a freeze covers what was written before it") {
  Disk disk;
  REQUIRE(write(*disk.layered, 0, kCluster, 'x'));
  REQUIRE(disk.freeze());
  disk.faults.flushes = 0;
  REQUIRE(write(*disk.layered, kCluster, kCluster, 'y'));
  REQUIRE(disk.layered->flush());
  // The data, then the bits; the frozen file is flushed through its other descriptor.
  CHECK(disk.faults.flushes == 2);
  REQUIRE(disk.layered->flush());
  CHECK(disk.faults.flushes == 2);
  REQUIRE(write(*disk.layered, kCluster, kCluster, 'z'));
  REQUIRE(disk.layered->flush());
  CHECK(disk.faults.flushes == 3);
}

TEST_CASE("random requests give what a plain disk gives, over layers, opened again and again") {
  Disk disk;
  std::mt19937 random(7);
  constexpr uint64_t kWindow = 64 * kCluster;
  // Across the border of two blocks of the bitmap, to the end of the disk.
  constexpr uint64_t kFrom = kSize - kWindow;
  std::vector<std::byte> plain = read(*disk.layered, kFrom, kWindow);
  for (int step = 0; step < 4000; step++) {
    const uint64_t at = random() % (kWindow / 512) * 512;
    const uint64_t size = std::min<uint64_t>(1 + random() % 60, (kWindow - at) / 512) * 512;
    const auto value = static_cast<char>('A' + random() % 26);
    const auto begin = plain.begin() + static_cast<ptrdiff_t>(at);
    const auto end = begin + static_cast<ptrdiff_t>(size);
    switch (random() % 16) {
      case 0:
      case 1:
        REQUIRE(disk.layered->write_zeroes(kFrom + at, size, random() % 2 == 0));
        std::fill(begin, end, std::byte{0});
        break;
      case 2:
        REQUIRE(disk.layered->flush());
        break;
      case 3:
        if (step % 100 == 3 && disk.tops.size() < LayeredBackend::kMaxFrozen)
          REQUIRE(disk.freeze(step % 3 == 0 ? Durability::kFlushed : Durability::kCached));
        break;
      case 4:
        REQUIRE(disk.layered->flush());
        disk.layered = disk.reopen().value();
        break;
      default: {
        // In three buffers.
        std::vector<std::byte> bytes(size, static_cast<std::byte>(value));
        iovec buffers[] = {
            {bytes.data(), 100}, {bytes.data() + 100, 0}, {bytes.data() + 100, size - 100}};
        REQUIRE(disk.layered->write(buffers, kFrom + at));
        std::fill(begin, end, static_cast<std::byte>(value));
      }
    }
    const uint64_t from = random() % (kWindow / 512) * 512;
    const uint64_t length = std::min<uint64_t>(1 + random() % 90, (kWindow - from) / 512) * 512;
    REQUIRE(read(*disk.layered, kFrom + from, length) ==
            std::vector<std::byte>(plain.begin() + static_cast<ptrdiff_t>(from),
                                   plain.begin() + static_cast<ptrdiff_t>(from + length)));
  }
  CHECK(disk.tops.size() > 3);
  CHECK(read(*disk.layered, kFrom, kWindow) == plain);
}

TEST_CASE("a full disk is an error, and what was there stays") {
  Disk disk;
  disk.faults.write = true;
  Result<void> full = write(*disk.layered, 3 * kCluster, kCluster, 'x');
  REQUIRE(!full);
  CHECK(full.error().number == ENOSPC);
  CHECK(read(*disk.layered, 3 * kCluster, kCluster) == filled(kCluster, 'b'));
  disk.faults.write = false;
  REQUIRE(write(*disk.layered, 3 * kCluster, kCluster, 'x'));
  disk.faults.write = true;
  // The data is there, the bits are not: no promise, until there is room.
  CHECK(!disk.layered->flush());
  disk.faults.write = false;
  REQUIRE(disk.layered->flush());
  CHECK(read(*disk.reopen().value(), 3 * kCluster, kCluster) == filled(kCluster, 'x'));
}

TEST_CASE("after a flush that failed no other promises anything") {
  Disk disk;
  REQUIRE(write(*disk.layered, 0, kCluster, 'x'));
  disk.faults.flush = true;
  CHECK(!disk.layered->flush());
  disk.faults.flush = false;
  Result<void> again = disk.layered->flush();
  REQUIRE(!again);
  CHECK(again.error().message.find("may be lost") != std::string::npos);
}

TEST_CASE("layers that do not belong together are refused") {
  Disk disk, other;
  REQUIRE(write(*disk.layered, 0, kCluster, 'x'));
  REQUIRE(disk.freeze());
  auto expect = [](Result<std::unique_ptr<LayeredBackend>> made, const char* text) {
    REQUIRE(!made);
    CHECK(made.error().message.find(text) != std::string::npos);
  };
  // Without the frozen one.
  expect(LayeredBackend::create(backend_of(disk.base), {}, disk.open(1)), "another one");
  // Another base of the same size, and one of another size.
  Fd base = make_file(kSize);
  std::vector<Delta> frozen;
  frozen.push_back(disk.open(0));
  expect(LayeredBackend::create(backend_of(base), std::move(frozen), disk.open(1)), "another one");
  Fd small = make_file(kSize - kCluster);
  expect(LayeredBackend::create(backend_of(small), {}, other.open(0)), "bytes");
  // A file that is not its own to freeze.
  tl::expected<Delta, Error> strange = disk.layered->freeze(
      other.open(0), disk.make(other.tops[0], disk.layered->top_id()), Durability::kCached);
  CHECK(!strange);
}

TEST_CASE("the number of frozen layers has a bound") {
  Disk disk;
  for (size_t i = 0; i < LayeredBackend::kMaxFrozen; i++) {
    REQUIRE(write(*disk.layered, i * kCluster, kCluster, 'x'));
    REQUIRE(disk.freeze());
  }
  Result<Delta> more = disk.freeze();
  REQUIRE(!more);
  CHECK(more.error().message.find("64 frozen layers") != std::string::npos);
  REQUIRE(write(*disk.layered, 0, kCluster, 'y'));
  CHECK(read(*disk.layered, 0, 2 * kCluster).back() == std::byte{'x'});
}

TEST_CASE("C14: a header with any bit flipped, a short file and bits beyond the end are refused") {
  Disk disk;
  REQUIRE(write(*disk.layered, 0, kCluster, 'x'));
  REQUIRE(disk.layered->flush());
  const Fd& file = disk.tops[0];
  std::array<uint8_t, 64> header;
  REQUIRE(::pread(file.get(), header.data(), header.size(), 0) == ssize_t{header.size()});
  for (size_t bit = 0; bit < header.size() * 8; bit++) {
    auto flipped = header;
    flipped[bit / 8] = static_cast<uint8_t>(flipped[bit / 8] ^ (1u << (bit % 8)));
    REQUIRE(::pwrite(file.get(), flipped.data(), flipped.size(), 0) == ssize_t{header.size()});
    Result<Delta> opened = Delta::open(backend_of(file));
    REQUIRE(!opened);
    REQUIRE(!opened.error().remedy.empty());
  }
  REQUIRE(::pwrite(file.get(), header.data(), header.size(), 0) == ssize_t{header.size()});
  REQUIRE(disk.reopen());
  // The bit of the cluster that begins where the disk has ended.
  const uint64_t beyond = (kSize + kCluster - 1) / kCluster;
  const auto bit = static_cast<uint8_t>(1u << beyond % 8);
  REQUIRE(::pwrite(file.get(), &bit, 1, static_cast<off_t>(kCluster + beyond / 8)) == 1);
  auto opened = disk.reopen();
  REQUIRE(!opened);
  CHECK(opened.error().message.find("beyond the disk's end") != std::string::npos);
  REQUIRE(::ftruncate(file.get(), static_cast<off_t>(Delta::file_size(kSize) - 512)) == 0);
  Result<Delta> cut = Delta::open(backend_of(file));
  REQUIRE(!cut);
  CHECK(cut.error().message.find("cut off") != std::string::npos);
}

TEST_CASE("a mark tells a frozen layer from one whose bits have changed") {
  Disk disk;
  REQUIRE(write(*disk.layered, 0, kCluster, 'x'));
  REQUIRE(disk.freeze());
  REQUIRE(disk.reopen().value()->frozen() == disk.layered->frozen());
  const uint8_t other = 3;
  REQUIRE(::pwrite(disk.tops[0].get(), &other, 1, kCluster) == 1);
  CHECK(disk.reopen().value()->frozen() != disk.layered->frozen());
}

}  // namespace
}  // namespace hutch::virtio::block
