// Disks whose frozen layers leave them, against a plain copy of what they should hold.
#include <random>

#include "virtio/block/test_disk.h"

namespace hutch::virtio::block {
namespace {

using namespace test;

TEST_CASE("random requests give what a plain disk gives, over layers that come and leave") {
  Disk disk;
  std::mt19937 random(11);
  constexpr uint64_t kWindow = 64 * kCluster;
  constexpr uint64_t kFrom = kSize - kWindow;
  std::vector<std::byte> plain = read(*disk.layered, kFrom, kWindow);
  int left = 0;
  for (int step = 0; step < 6000; step++) {
    const uint64_t at = random() % (kWindow / 512) * 512;
    const uint64_t size = std::min<uint64_t>(1 + random() % 60, (kWindow - at) / 512) * 512;
    const auto value = static_cast<char>('A' + random() % 26);
    const auto begin = plain.begin() + static_cast<ptrdiff_t>(at);
    const auto end = begin + static_cast<ptrdiff_t>(size);
    const Durability durability = random() % 2 == 0 ? Durability::kFlushed : Durability::kCached;
    switch (random() % 16) {
      case 0:
      case 1:
        REQUIRE(disk.layered->write_zeroes(kFrom + at, size, random() % 2 == 0));
        std::fill(begin, end, std::byte{0});
        break;
      case 2: {
        REQUIRE(disk.layered->discard(kFrom + at, size));
        const std::vector<std::byte> now = read(*disk.layered, kFrom + at, size);
        std::copy(now.begin(), now.end(), begin);
        break;
      }
      case 3:
      case 4:
      case 5:
        if (disk.tops.size() < LayeredBackend::kMaxFrozen) REQUIRE(disk.freeze(durability));
        break;
      case 6: {
        const size_t before = disk.layered->frozen().size();
        const size_t many = 1 + random() % 12;
        REQUIRE(disk.shorten(many, durability));
        REQUIRE((before < many || disk.layered->frozen().size() <= many / 2));
        left += static_cast<int>(before - disk.layered->frozen().size());
        break;
      }
      case 7:
        REQUIRE(disk.layered->flush());
        disk.layered = disk.reopen().value();
        break;
      default:
        REQUIRE(write(*disk.layered, kFrom + at, size, value));
        std::fill(begin, end, static_cast<std::byte>(value));
    }
    REQUIRE(read(*disk.layered, kFrom, kWindow) == plain);
  }
  CHECK(left > 500);
  REQUIRE(disk.freeze());
  CHECK(read(*disk.fork(), kFrom, kWindow) == plain);
}

TEST_CASE("a disk is frozen 200 times in a row, and a large layer is not copied again and again") {
  Disk disk;
  constexpr uint64_t kLarge = 8 << 20;
  REQUIRE(write(*disk.layered, 0, kCluster, 's'));
  REQUIRE(disk.freeze());
  REQUIRE(write(*disk.layered, kLarge, kLarge, 'l'));
  REQUIRE(disk.freeze());
  uint64_t copied = 0;
  size_t most = 0;
  for (uint64_t i = 0; i < 200; i++) {
    REQUIRE(write(*disk.layered, i * kCluster, kCluster, static_cast<char>(i)));
    const uint64_t before = disk.faults.written;
    REQUIRE(disk.shorten(LayeredBackend::kManyFrozen));
    copied += disk.faults.written - before;
    REQUIRE(disk.freeze());
    most = std::max(most, disk.layered->frozen().size());
  }
  CHECK(most == LayeredBackend::kManyFrozen);
  // Once, as there is a small one below it; and the small ones, some of them twice.
  CHECK(copied >= kLarge);
  CHECK(copied < kLarge + 1000 * kCluster);
  REQUIRE(disk.layered->flush());
  auto again = disk.reopen().value();
  auto fork = disk.fork();
  for (LayeredBackend* each : {disk.layered.get(), again.get(), fork.get()}) {
    for (uint64_t i = 0; i < 200; i++)
      REQUIRE(read(*each, i * kCluster, kCluster) == filled(kCluster, static_cast<char>(i)));
    CHECK(read(*each, kLarge, kLarge) == filled(kLarge, 'l'));
  }
}

TEST_CASE("those that share the layers that leave read what they read before") {
  Disk disk;
  REQUIRE(write(*disk.layered, 0, 2 * kCluster, '1'));
  REQUIRE(disk.freeze());
  REQUIRE(write(*disk.layered, kCluster, kCluster, '2'));
  REQUIRE(disk.freeze());
  auto fork = disk.fork();
  const std::vector<LayerMark> marks = disk.layered->frozen();
  std::vector<Fd> files;
  for (const Fd& file : disk.tops) files.push_back(file.duplicate().value());
  REQUIRE(disk.shorten(1));
  CHECK(disk.layered->frozen().empty());
  REQUIRE(write(*disk.layered, 0, 2 * kCluster, 'p'));
  REQUIRE(disk.layered->flush());
  CHECK(read(*fork, 0, kCluster) == filled(kCluster, '1'));
  CHECK(read(*fork, kCluster, kCluster) == filled(kCluster, '2'));
  files.pop_back();
  files.push_back(make_file(Delta::file_size(kSize)));
  disk.make(files.back(), marks.back().id);
  disk.tops = std::move(files);
  auto other = disk.reopen();
  REQUIRE(other);
  CHECK((*other)->frozen() == marks);
  CHECK(read(**other, kCluster, kCluster) == filled(kCluster, '2'));
}

TEST_CASE("zeros that leave with their layer are holes, and hide what is below") {
  Disk disk;
  constexpr uint64_t kLarge = 16 << 20;
  REQUIRE(disk.layered->write_zeroes(0, kLarge, true));
  REQUIRE(write(*disk.layered, kLarge, kCluster, 'x'));
  REQUIRE(disk.freeze());
  const uint64_t before = space(disk.tops.back());
  REQUIRE(disk.shorten(1));
  CHECK(space(disk.tops.back()) <= before + 2 * kCluster);
  CHECK(read(*disk.layered, 0, kLarge) == filled(kLarge, 0));
  CHECK(read(*disk.layered, kLarge, kCluster) == filled(kCluster, 'x'));
}

TEST_CASE("a disk that is full half way is what it was, wants no space, and is shortened later") {
  for (int room = 0; room < 12; room++) {
    Disk disk;
    std::vector<std::byte> plain;
    for (uint64_t i = 0; i < 4; i++) {
      REQUIRE(write(*disk.layered, i * 3 * kCluster, 2 * kCluster, static_cast<char>('1' + i)));
      REQUIRE(disk.freeze());
    }
    REQUIRE(write(*disk.layered, 512, 512, 'p'));
    REQUIRE(disk.layered->flush());
    plain = read(*disk.layered, 0, 40 * kCluster);
    const std::vector<LayerMark> marks = disk.layered->frozen();
    const uint64_t before = space(disk.tops.back());
    disk.faults.writes_left = room;
    Result<void> full = disk.shorten(1);
    disk.faults.writes_left = 1000;
    // Three runs besides the one that the private delta has in part, and the header.
    REQUIRE(full.has_value() == (room >= 5));
    CHECK(read(*disk.layered, 0, 40 * kCluster) == plain);
    if (full) continue;
    CHECK(full.error().number == ENOSPC);
    CHECK(disk.layered->frozen() == marks);
    if (room < 4) CHECK(space(disk.tops.back()) == before);
    REQUIRE(write(*disk.layered, 3 * kCluster, 512, 'q'));
    std::fill_n(plain.begin() + 3 * kCluster, 512, std::byte{'q'});
    REQUIRE(disk.layered->flush());
    CHECK(read(*disk.layered, 0, 40 * kCluster) == plain);
    CHECK(read(*disk.reopen().value(), 0, 40 * kCluster) == plain);
    REQUIRE(disk.shorten(1, Durability::kFlushed));
    CHECK(disk.layered->frozen().empty());
    REQUIRE(disk.layered->flush());
    CHECK(read(*disk.reopen().value(), 0, 40 * kCluster) == plain);
  }
}

TEST_CASE("a flush after layers have left covers what they had") {
  Disk disk;
  REQUIRE(write(*disk.layered, 0, kCluster, 'x'));
  REQUIRE(disk.freeze());
  CHECK(disk.layered->is_top_empty());
  REQUIRE(disk.shorten(1));
  CHECK(!disk.layered->is_top_empty());
  disk.faults.flushes = 0;
  REQUIRE(disk.layered->flush());
  // The data, then the bits.
  CHECK(disk.faults.flushes == 2);
  CHECK(disk.tops.size() == 1);
  CHECK(read(*disk.reopen().value(), 0, kCluster) == filled(kCluster, 'x'));
}

}  // namespace
}  // namespace hutch::virtio::block
