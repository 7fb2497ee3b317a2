// C11: power cuts. A recorder in place of the private delta's file keeps what was flushed apart
// from what was not. At random moments, also between the steps of a flush, a power cut leaves all
// that was flushed and any part of the rest, in any order, torn at 512 bytes; the disk is opened
// from that, and each of its sectors must hold what was flushed last or what was written since.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <random>

#include "virtio/block/layered.h"
#include "virtio/spec.h"

namespace hutch::virtio::block {
namespace {

constexpr uint64_t kSector = spec::kSectorSize;
constexpr uint64_t kCluster = Delta::kClusterSize;
// Two blocks of the bitmap, and half a cluster at the end.
constexpr uint64_t kSize = Delta::kClustersPerBlock * kCluster + 40 * kCluster + 2048;
constexpr int kCuts = 100'000;

using Sector = std::array<std::byte, kSector>;

Sector sector_of(uint64_t stamp) {
  Sector sector;
  for (size_t i = 0; i < kSector; i += sizeof stamp)
    std::memcpy(sector.data() + i, &stamp, sizeof stamp);
  return sector;
}

// A file in memory: sectors by number, zeros elsewhere.
class Image {
 public:
  void read(uint64_t number, std::byte* to) const {
    auto found = sectors_.find(number);
    if (found == sectors_.end())
      std::memset(to, 0, kSector);
    else
      std::memcpy(to, found->second.data(), kSector);
  }
  void write(uint64_t number, const Sector& sector) { sectors_[number] = sector; }

 private:
  std::map<uint64_t, Sector> sectors_;
};

template <typename Each>
void for_sectors(std::span<const iovec> buffers, uint64_t offset, Each each) {
  for (const iovec& buffer : buffers)
    for (size_t done = 0; done < buffer.iov_len; done += kSector, offset += kSector)
      each(offset / kSector, static_cast<std::byte*>(buffer.iov_base) + done);
}

// What lies on the medium: what was flushed, and what waits.
struct Medium {
  Image durable;
  std::vector<std::pair<uint64_t, Sector>> waiting;
  bool keeps_nothing = false;  // flushes are lies
  std::function<void()> before_each;
};

class Recorder final : public Backend {
 public:
  explicit Recorder(Medium& medium) : medium_(medium) {}
  uint64_t size() const override { return Delta::file_size(kSize); }
  Result<void> read(std::span<const iovec> buffers, uint64_t offset) override {
    for_sectors(buffers, offset, [&](uint64_t number, std::byte* to) {
      auto newest = std::find_if(medium_.waiting.rbegin(), medium_.waiting.rend(),
                                 [&](const auto& entry) { return entry.first == number; });
      if (newest == medium_.waiting.rend())
        medium_.durable.read(number, to);
      else
        std::memcpy(to, newest->second.data(), kSector);
    });
    return {};
  }
  Result<void> write(std::span<const iovec> buffers, uint64_t offset) override {
    happens();
    for_sectors(buffers, offset, [&](uint64_t number, const std::byte* from) {
      Sector sector;
      std::memcpy(sector.data(), from, kSector);
      medium_.waiting.emplace_back(number, sector);
    });
    return {};
  }
  Result<void> flush() override {
    happens();
    if (medium_.keeps_nothing) return {};
    for (const auto& [number, sector] : medium_.waiting) medium_.durable.write(number, sector);
    medium_.waiting.clear();
    return {};
  }
  Result<void> discard(uint64_t offset, uint64_t size) override {
    return write_zeroes(offset, size, true);
  }
  Result<void> write_zeroes(uint64_t offset, uint64_t size, bool) override {
    happens();
    for (uint64_t at = offset; at < offset + size; at += kSector)
      medium_.waiting.emplace_back(at / kSector, Sector{});
    return {};
  }

 private:
  void happens() {
    if (medium_.before_each) medium_.before_each();
  }
  Medium& medium_;
};

// What a power cut has left; nothing else happens to it.
class After final : public Backend {
 public:
  After(const Medium& medium, const std::map<uint64_t, const Sector*>& kept)
      : medium_(medium), kept_(kept) {}
  uint64_t size() const override { return Delta::file_size(kSize); }
  Result<void> read(std::span<const iovec> buffers, uint64_t offset) override {
    for_sectors(buffers, offset, [&](uint64_t number, std::byte* to) {
      auto found = kept_.find(number);
      if (found == kept_.end())
        medium_.durable.read(number, to);
      else
        std::memcpy(to, found->second->data(), kSector);
    });
    return {};
  }
  Result<void> write(std::span<const iovec>, uint64_t) override { return fail("after the cut"); }
  Result<void> flush() override { return fail("after the cut"); }
  Result<void> discard(uint64_t, uint64_t) override { return fail("after the cut"); }
  Result<void> write_zeroes(uint64_t, uint64_t, bool) override { return fail("after the cut"); }

 private:
  const Medium& medium_;
  const std::map<uint64_t, const Sector*>& kept_;
};

// Reads as a stamp that says which sector it is.
class Base final : public Backend {
 public:
  static uint64_t stamp(uint64_t number) { return uint64_t{0xba5e} << 48 | number; }
  uint64_t size() const override { return kSize; }
  Result<void> read(std::span<const iovec> buffers, uint64_t offset) override {
    for_sectors(buffers, offset, [&](uint64_t number, std::byte* to) {
      std::memcpy(to, sector_of(stamp(number)).data(), kSector);
    });
    return {};
  }
  Result<void> write(std::span<const iovec>, uint64_t) override { return fail("the base"); }
  Result<void> flush() override { return fail("the base"); }
  Result<void> discard(uint64_t, uint64_t) override { return fail("the base"); }
  Result<void> write_zeroes(uint64_t, uint64_t, bool) override { return fail("the base"); }
};

class World {
 public:
  // Over so many frozen layers, of which each has something.
  explicit World(uint32_t seed, size_t layers = 0) : random_(seed) {
    // Runs of clusters under different sectors and blocks of the bitmap, and the end of the disk.
    for (uint64_t first :
         {uint64_t{0}, uint64_t{4094}, Delta::kClustersPerBlock - 2, (kSize - 1) / kCluster - 3})
      for (uint64_t at = first * kCluster; at < std::min((first + 4) * kCluster, kSize);
           at += kSector)
        allowed_[at / kSector] = {Base::stamp(at / kSector)};
    is_quiet_ = true;
    begin(0);
    for (size_t i = 1; i <= layers; i++) {
      for (int steps = 0; steps < 8; steps++) step();
      flush();
      frozen_.push_back(std::move(medium_));
      medium_ = {};
      begin(i);
    }
    is_quiet_ = false;
    medium_.before_each = [this] {
      if (!is_quiet_) cut(2);
    };
  }

  void step() {
    auto first = allowed_.begin();
    std::advance(first, random_() % allowed_.size());
    const uint64_t number = first->first;
    uint64_t count = 1 + random_() % 20;
    while (!allowed_.contains(number + count - 1)) count--;
    switch (random_() % 8) {
      case 0:
        return flush();
      case 1:
        return zero(number, count, random_() % 2 == 0);
      case 2:
        return discard(number, count);
      default:
        return write(number, count);
    }
  }

  // The upper frozen layers leave, with power cuts on the way.
  void shorten() {
    REQUIRE(disk_->shorten(1 + random_() % 3, Durability::kFlushed));
    settle();
    cut(1);
  }
  size_t layers() const { return disk_->frozen().size(); }

  int cuts() const { return cuts_; }
  int wrong() const { return wrong_; }
  Medium& medium() { return medium_; }

  // Each image of a power cut at this moment; checks it.
  void cut(int times) {
    if (is_quiet_) return;
    for (int i = 0; i < times; i++) {
      kept_.clear();
      // From almost nothing to almost everything.
      const auto share = random_() % 101;
      std::vector<size_t> order(medium_.waiting.size());
      for (size_t at = 0; at < order.size(); at++) order[at] = at;
      std::shuffle(order.begin(), order.end(), random_);
      for (size_t at : order)
        if (random_() % 100 < share) kept_[medium_.waiting[at].first] = &medium_.waiting[at].second;
      check();
      cuts_++;
    }
  }

  // Goes on from the last image.
  void survive() {
    is_quiet_ = true;
    for (const auto& [number, sector] : kept_) medium_.durable.write(number, *sector);
    kept_.clear();
    medium_.waiting.clear();
    disk_ = open(std::make_unique<Recorder>(medium_)).value();
    settle();
    is_quiet_ = false;
  }

 private:
  static LayerId id_of(size_t layer) { return {std::byte(layer + 1)}; }
  // A new delta over the frozen ones that are there by now.
  void begin(size_t layer) {
    Delta top = Delta::create(std::make_unique<Recorder>(medium_),
                              {.disk_size = kSize,
                               .id = id_of(layer),
                               .below = layer == 0 ? base_ : id_of(layer - 1)})
                    .value();
    REQUIRE(top.file().flush());
    disk_ = open(std::make_unique<Recorder>(medium_)).value();
  }
  // Over those frozen layers that it says that it lies over.
  Result<std::unique_ptr<LayeredBackend>> open(std::unique_ptr<Backend> file) {
    Delta top = TRY(Delta::open(std::move(file)));
    std::vector<Delta> frozen;
    for (size_t i = 0; i < frozen_.size(); i++) {
      if (top.header().below == (i == 0 ? base_ : id_of(i - 1))) break;
      frozen.push_back(TRY(Delta::open(std::make_unique<Recorder>(frozen_[i]))));
    }
    return LayeredBackend::create(std::make_unique<Base>(), std::move(frozen), std::move(top));
  }
  // The stamp of a sector, or nothing that was ever written.
  static uint64_t stamp_of(const std::byte* sector) {
    uint64_t stamp;
    std::memcpy(&stamp, sector, sizeof stamp);
    for (size_t i = sizeof stamp; i < kSector; i += sizeof stamp)
      if (std::memcmp(sector, sector + i, sizeof stamp) != 0) return ~uint64_t{0};
    return stamp;
  }
  // Calls `each` with every sector that the workload uses.
  template <typename Each>
  void for_all(Backend& disk, Each each) {
    std::array<std::byte, 64 * kSector> bytes;
    for (auto at = allowed_.begin(); at != allowed_.end();) {
      auto end = at;
      size_t count = 0;
      while (end != allowed_.end() && end->first == at->first + count &&
             (count + 1) * kSector <= bytes.size()) {
        ++end;
        count++;
      }
      iovec buffer{bytes.data(), count * kSector};
      REQUIRE(disk.read(std::span(&buffer, 1), at->first * kSector));
      for (size_t i = 0; i < count; i++, ++at) each(at->second, stamp_of(&bytes[i * kSector]));
    }
  }
  void check() {
    auto disk = open(std::make_unique<After>(medium_, kept_));
    REQUIRE(disk);
    for_all(**disk, [&](const std::vector<uint64_t>& allowed, uint64_t stamp) {
      wrong_ += std::find(allowed.begin(), allowed.end(), stamp) == allowed.end();
    });
  }
  // What is there now is all that may be there.
  void settle() {
    for_all(*disk_, [&](std::vector<uint64_t>& allowed, uint64_t stamp) { allowed = {stamp}; });
  }
  void write(uint64_t number, uint64_t count) {
    std::vector<Sector> sectors;
    for (uint64_t i = 0; i < count; i++) {
      sectors.push_back(sector_of(++stamp_));
      allowed_[number + i].push_back(stamp_);
    }
    iovec buffer{sectors.data(), count * kSector};
    REQUIRE(disk_->write(std::span(&buffer, 1), number * kSector));
    cut(1);
  }
  void zero(uint64_t number, uint64_t count, bool may_unmap) {
    for (uint64_t i = 0; i < count; i++) allowed_[number + i].push_back(0);
    REQUIRE(disk_->write_zeroes(number * kSector, count * kSector, may_unmap));
    cut(1);
  }
  void discard(uint64_t number, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) allowed_[number + i].push_back(0);
    REQUIRE(disk_->discard(number * kSector, count * kSector));
    cut(1);
  }
  void flush() {
    REQUIRE(disk_->flush());
    settle();
    cut(1);
  }

  std::mt19937 random_;
  const LayerId base_ = LayeredBackend::base_id(*std::make_unique<Base>()).value();
  std::deque<Medium> frozen_;  // files of frozen layers, which stay as they are
  Medium medium_;
  std::unique_ptr<LayeredBackend> disk_;
  std::map<uint64_t, std::vector<uint64_t>> allowed_;  // stamps, by sector
  std::map<uint64_t, const Sector*> kept_;             // by the cut at hand
  uint64_t stamp_ = 0;
  int cuts_ = 0, wrong_ = 0;
  bool is_quiet_ = false;
};

TEST_CASE("C11: 100,000 power cuts lose no acknowledged write and make none up") {
  int cuts = 0;
  for (uint32_t seed = 1; cuts < kCuts; seed++) {
    World world(seed);
    while (world.cuts() < kCuts / 20) {
      world.step();
      if (world.cuts() % 97 == 0) world.survive();
    }
    cuts += world.cuts();
    CAPTURE(seed);
    CHECK(world.wrong() == 0);
  }
  CHECK(cuts >= kCuts);
}

TEST_CASE("C11: power cuts while frozen layers leave a disk lose nothing either") {
  size_t left = 0;
  for (uint32_t seed = 1; seed <= 20; seed++) {
    World world(seed, 3);
    const int due = 100 + static_cast<int>(seed) * 10;
    while (world.cuts() < due) world.step();
    world.shorten();
    left += 3 - world.layers();
    while (world.cuts() < 2 * due) world.step();
    CAPTURE(seed);
    CHECK(world.wrong() == 0);
  }
  CHECK(left > 20);
}

TEST_CASE("C11: a medium that lies about its flushes is noticed") {
  World world(1);
  world.medium().keeps_nothing = true;
  while (world.cuts() < 2000) world.step();
  CHECK(world.wrong() > 0);
}

}  // namespace
}  // namespace hutch::virtio::block
