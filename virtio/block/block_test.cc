// The block device over a backend that tests can look into, break and slow down.
#include "virtio/block/block.h"

#include <doctest/doctest.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <map>
#include <random>
#include <thread>

#include "tests/guest_driver.h"
#include "virtio/mmio.h"

namespace hutch::virtio {
namespace {

using testing::bytes_of;
using testing::GuestQueue;
using testing::GuestRequest;
using testing::kMiB;
using testing::to_text;

constexpr uint64_t kSectors = 2048;
constexpr uint64_t kDiskSize = kSectors * spec::kSectorSize;
constexpr uint64_t kRingFeatures = spec::kFeatureEventIndex | spec::kFeatureIndirectDescriptors;
constexpr uint64_t kBlockFeatures =
    spec::kBlockFeatureFlush | spec::kBlockFeatureDiscard | spec::kBlockFeatureWriteZeroes;
constexpr int kOk = spec::kBlockStatusOk;
constexpr int kIoError = spec::kBlockStatusIoError;
constexpr int kUnsupported = spec::kBlockStatusUnsupported;

// A disk in memory that writes down what happens to it.
class MemoryBackend final : public block::Backend {
 public:
  uint64_t size() const override { return kDiskSize; }
  Result<void> read(std::span<const iovec> buffers, uint64_t offset) override {
    TRY(happens("read", offset));
    for (const iovec& buffer : buffers) {
      std::memcpy(buffer.iov_base, bytes.data() + offset, buffer.iov_len);
      offset += buffer.iov_len;
    }
    return {};
  }
  Result<void> write(std::span<const iovec> buffers, uint64_t offset) override {
    TRY(happens("write", offset));
    for (const iovec& buffer : buffers) {
      std::memcpy(bytes.data() + offset, buffer.iov_base, buffer.iov_len);
      offset += buffer.iov_len;
    }
    return {};
  }
  Result<void> flush() override { return happens("flush", 0); }
  Result<void> discard(uint64_t offset, uint64_t size) override {
    TRY(happens("discard", offset));
    discarded += size;
    return {};
  }
  Result<void> write_zeroes(uint64_t offset, uint64_t size, bool may_unmap) override {
    TRY(happens(may_unmap ? "unmap" : "zero", offset));
    std::memset(bytes.data() + offset, 0, size);
    return {};
  }

  std::vector<char> bytes = std::vector<char>(kDiskSize);
  std::string log;
  uint64_t discarded = 0;
  std::atomic<uint64_t> calls{0};
  bool is_failing = false;
  std::chrono::microseconds delay{0};

 private:
  Result<void> happens(const char* what, uint64_t offset) {
    calls++;
    if (delay.count() > 0) std::this_thread::sleep_for(delay);
    log += fmt::format("{}@{} ", what, offset / spec::kSectorSize);
    if (is_failing) return fail_errno(EIO, "the test's disk");
    return {};
  }
};

struct Fixture {
  explicit Fixture(uint64_t features = kBlockFeatures, bool read_only = false)
      : Fixture(features, read_only, std::make_unique<MemoryBackend>()) {}
  Fixture(uint64_t features, bool read_only, std::unique_ptr<MemoryBackend> backend)
      : disk(*backend),
        device(*loop, std::move(backend), {.read_only = read_only, .id = "root-disk"}),
        transport(MmioTransport::create("disk", memory, device, interrupt).value()),
        driver(*transport) {
    uint64_t offered = driver.offered_features();
    driver.start(offered & (features | kRingFeatures), {&queue});
    run();
  }

  static std::vector<std::byte> header(uint32_t type, uint64_t sector) {
    return bytes_of(spec::BlockRequestHeader{type, 0, sector});
  }
  testing::RequestBuilder request(uint32_t type, uint64_t sector = 0) {
    return queue.readable(header(type, sector));
  }
  void run() {
    driver.kick(0);
    for (int i = 0; i < 3; i++) REQUIRE(loop->run_once(0));
  }
  // Submits, runs, and returns the status byte: the last one of the writable part; -1 when the
  // request did not come back.
  int status(testing::RequestBuilder&& builder) {
    last = std::move(builder).submit();
    GuestAddress where = *last.writable.back().start.offset(last.writable.back().size - 1);
    REQUIRE(memory.write(where, uint8_t{0xee}));
    run();
    std::optional<GuestQueue::Used> used = queue.take_used();
    if (!used) return -1;
    length = used->length;
    return memory.read<uint8_t>(where).value();
  }
  int ranges(uint32_t type, std::initializer_list<spec::BlockRange> ranges) {
    std::vector<std::byte> bytes;
    for (const spec::BlockRange& range : ranges) {
      std::vector<std::byte> one = bytes_of(range);
      bytes.insert(bytes.end(), one.begin(), one.end());
    }
    return status(request(type).readable(bytes).writable(1));
  }

  GuestMemory memory = testing::make_memory(16 * kMiB);
  std::unique_ptr<Loop> loop = Loop::create().value();
  MemoryBackend& disk;
  Block device;
  testing::FakeInterrupt interrupt;
  std::unique_ptr<MmioTransport> transport;
  testing::MmioDriver driver;
  GuestQueue queue{memory, GuestAddress(0x100000), 256, 8 * kMiB};
  GuestRequest last;
  uint32_t length = 0;
};

TEST_CASE("the configuration tells size and limits") {
  Fixture fixture;
  CHECK(fixture.driver.read(0x100) == kSectors);
  CHECK(fixture.driver.read(0x104) == 0);
  CHECK(fixture.driver.read(0x10c) == block::kMaxSegments);
  CHECK(fixture.driver.read(0x114) == 512);
  CHECK(fixture.driver.read(0x124) == block::kMaxDiscardSectors);
  CHECK(fixture.driver.read(0x130) == block::kMaxZeroSectors);
  CHECK((fixture.driver.offered_features() & spec::kBlockFeatureReadOnly) == 0);
  Fixture read_only(kBlockFeatures, true);
  CHECK((read_only.driver.offered_features() & spec::kBlockFeatureReadOnly) != 0);
  CHECK((read_only.driver.offered_features() & spec::kBlockFeatureDiscard) == 0);
}

TEST_CASE("what is written is read back, across buffers of any shape") {
  Fixture fixture;
  std::vector<std::byte> data(3 * 512);
  for (size_t i = 0; i < data.size(); i++) data[i] = static_cast<std::byte>(i * 7);
  auto part = [&](size_t from, size_t to) { return std::span(data).subspan(from, to - from); };
  CHECK(fixture.status(fixture.request(spec::kBlockOut, 5)
                           .readable(part(0, 100))
                           .readable(part(100, 1000))
                           .readable(part(1000, 1536))
                           .writable(1)) == kOk);
  CHECK(fixture.length == 1);
  CHECK(fixture.status(fixture.request(spec::kBlockIn, 5)
                           .writable(512)
                           .writable(700)
                           .writable(324)
                           .writable(1)) == kOk);
  CHECK(fixture.length == 1537);
  std::vector<std::byte> read = fixture.queue.written(fixture.last);
  read.pop_back();
  CHECK(read == data);
  CHECK(fixture.disk.log == "write@5 read@5 ");
}

TEST_CASE("the status byte may share a buffer with the data") {
  Fixture fixture;
  CHECK(fixture.status(fixture.request(spec::kBlockIn, 0).writable(513)) == kOk);
  CHECK(fixture.length == 513);
}

TEST_CASE("the identity is the disk's serial") {
  Fixture fixture;
  CHECK(fixture.status(fixture.request(spec::kBlockGetId).writable(20).writable(1)) == kOk);
  CHECK(to_text(fixture.queue.written(fixture.last)).substr(0, 10) ==
        std::string("root-disk\0", 10));
  CHECK(fixture.status(fixture.request(spec::kBlockGetId).writable(19).writable(1)) == kIoError);
}

TEST_CASE("a flush reaches the backend before it completes") {
  Fixture fixture;
  CHECK(fixture.status(fixture.request(spec::kBlockFlush).writable(1)) == kOk);
  CHECK(fixture.disk.log == "flush@0 ");
}

TEST_CASE("a driver without FLUSH gets every write durable") {
  Fixture fixture(spec::kBlockFeatureWriteZeroes);
  std::vector<std::byte> data(512);
  CHECK(fixture.status(fixture.request(spec::kBlockOut, 1).readable(data).writable(1)) == kOk);
  CHECK(fixture.ranges(spec::kBlockWriteZeroes, {{1, 1, 0}}) == kOk);
  CHECK(fixture.disk.log == "write@1 flush@0 zero@1 flush@0 ");
}

TEST_CASE("discard and write zeroes reach the backend range by range") {
  Fixture fixture;
  std::fill(fixture.disk.bytes.begin(), fixture.disk.bytes.end(), 'x');
  CHECK(fixture.ranges(spec::kBlockDiscard, {{8, 16, 0}, {100, 0, 0}, {2040, 8, 0}}) == kOk);
  CHECK(fixture.ranges(spec::kBlockWriteZeroes, {{10, 2, spec::kBlockRangeUnmap}}) == kOk);
  CHECK(fixture.ranges(spec::kBlockWriteZeroes, {{20, 1, 0}}) == kOk);
  CHECK(fixture.disk.log == "discard@8 discard@2040 unmap@10 zero@20 ");
  CHECK(fixture.disk.discarded == 24 * 512);
  CHECK(std::count(fixture.disk.bytes.begin(), fixture.disk.bytes.end(), 0) == 3 * 512);
}

TEST_CASE("an error of the host is an I/O error for the guest, and the device goes on") {
  Fixture fixture;
  fixture.disk.is_failing = true;
  std::vector<std::byte> data(512);
  CHECK(fixture.status(fixture.request(spec::kBlockOut, 1).readable(data).writable(1)) == kIoError);
  CHECK(fixture.status(fixture.request(spec::kBlockIn, 1).writable(512).writable(1)) == kIoError);
  CHECK(fixture.length == 0);
  CHECK(fixture.status(fixture.request(spec::kBlockFlush).writable(1)) == kIoError);
  CHECK(fixture.ranges(spec::kBlockDiscard, {{1, 1, 0}}) == kIoError);
  CHECK(fixture.ranges(spec::kBlockWriteZeroes, {{1, 1, 0}}) == kIoError);
  fixture.disk.is_failing = false;
  CHECK(fixture.status(fixture.request(spec::kBlockIn, 1).writable(512).writable(1)) == kOk);
}

// --- V02, V19 ----------------------------------------------------------------------------------

TEST_CASE("V19: sectors and lengths that pass the disk's end or wrap are I/O errors") {
  Fixture fixture;
  auto read = [&](uint64_t sector, uint64_t size) {
    return fixture.status(fixture.request(spec::kBlockIn, sector).writable(size).writable(1));
  };
  CHECK(read(kSectors - 1, 512) == kOk);
  CHECK(read(0, kDiskSize) == kOk);
  uint64_t calls = fixture.disk.calls;
  CHECK(read(kSectors, 512) == kIoError);
  CHECK(read(kSectors - 1, 1024) == kIoError);
  CHECK(read(1, kDiskSize) == kIoError);
  for (uint64_t sector : {1ull << 54, 1ull << 55, (1ull << 55) - 1, 1ull << 63, ~0ull, ~0ull - 7,
                          0x0080'0000'0000'0000ull})
    CHECK(read(sector, 4096) == kIoError);
  CHECK(read(0, 511) == kIoError);
  CHECK(read(0, 513) == kIoError);
  CHECK(fixture.disk.calls == calls);
}

TEST_CASE("V19: a read-only disk takes no writes of any kind") {
  Fixture fixture(~0ull, true);
  std::vector<std::byte> data(512);
  CHECK(fixture.status(fixture.request(spec::kBlockOut, 0).readable(data).writable(1)) == kIoError);
  CHECK(fixture.ranges(spec::kBlockDiscard, {{0, 1, 0}}) == kUnsupported);
  CHECK(fixture.ranges(spec::kBlockWriteZeroes, {{0, 1, 0}}) == kUnsupported);
  CHECK(fixture.status(fixture.request(spec::kBlockIn, 0).writable(512).writable(1)) == kOk);
  CHECK(fixture.disk.log == "read@0 ");
}

TEST_CASE("V19: unknown types, and those of features not negotiated, are unsupported") {
  Fixture fixture(0);
  for (uint32_t type : {2u, 3u, 5u, 9u, 10u, 12u, 14u, 0x80000000u, 0xffffffffu, 11u, 13u}) {
    fixture.disk.log.clear();
    CHECK(fixture.status(
              fixture.request(type, 0).readable(bytes_of(spec::BlockRange{0, 1, 0})).writable(1)) ==
          kUnsupported);
    CHECK(fixture.disk.log.empty());
  }
}

TEST_CASE("V19: data in the wrong direction, or none, is an I/O error") {
  Fixture fixture;
  std::vector<std::byte> data(512);
  CHECK(fixture.status(fixture.request(spec::kBlockIn).writable(1)) == kIoError);
  CHECK(fixture.status(fixture.request(spec::kBlockOut).writable(1)) == kIoError);
  CHECK(fixture.status(fixture.request(spec::kBlockIn).readable(data).writable(1)) == kIoError);
  CHECK(fixture.status(fixture.request(spec::kBlockOut).writable(512).writable(1)) == kIoError);
  CHECK(fixture.status(fixture.request(spec::kBlockIn).readable(data).writable(512).writable(1)) ==
        kIoError);
  CHECK(fixture.status(fixture.request(spec::kBlockOut).readable(data).writable(512).writable(1)) ==
        kIoError);
  CHECK(fixture.disk.log.empty());
}

TEST_CASE("V19: ranges that overflow, are too many, too long or have unknown flags are refused") {
  Fixture fixture;
  for (uint32_t type : {spec::kBlockDiscard, spec::kBlockWriteZeroes}) {
    CHECK(fixture.ranges(type, {{kSectors, 1, 0}}) == kIoError);
    CHECK(fixture.ranges(type, {{kSectors - 1, 2, 0}}) == kIoError);
    CHECK(fixture.ranges(type, {{~0ull, 1, 0}}) == kIoError);
    CHECK(fixture.ranges(type, {{~0ull, 0xffffffff, 0}}) == kIoError);
    CHECK(fixture.ranges(type, {{0, 0xffffffff, 0}}) == kIoError);
    CHECK(fixture.ranges(type, {{1ull << 55, 1, 0}}) == kIoError);
    for (uint32_t flags : {2u, 0x80000000u, 0xffffffffu})
      CHECK(fixture.ranges(type, {{0, 1, flags}}) == kUnsupported);
    CHECK(fixture.ranges(type, {}) == kIoError);
    std::vector<std::byte> many(16 * (block::kMaxDiscardRanges + 1));
    CHECK(fixture.status(fixture.request(type).readable(many).writable(1)) == kIoError);
    std::vector<std::byte> odd(15);
    CHECK(fixture.status(fixture.request(type).readable(odd).writable(1)) == kIoError);
    CHECK(fixture.status(fixture.request(type)
                             .readable(bytes_of(spec::BlockRange{0, 1, 0}))
                             .writable(512)
                             .writable(1)) == kIoError);
  }
  CHECK(fixture.ranges(spec::kBlockDiscard, {{0, 1, spec::kBlockRangeUnmap}}) == kUnsupported);
  // One bad range keeps the others from happening.
  CHECK(fixture.ranges(spec::kBlockDiscard, {{0, 1, 0}, {kSectors, 1, 0}}) == kIoError);
  CHECK(fixture.disk.log.empty());
}

TEST_CASE("V19: a header split over 16 descriptors is one header; a short one is an I/O error") {
  Fixture fixture;
  std::vector<std::byte> header = Fixture::header(spec::kBlockIn, 7);
  testing::RequestBuilder split = fixture.queue.request();
  for (std::byte byte : header) std::move(split).readable(std::span(&byte, 1));
  std::move(split).writable(512).writable(1);
  CHECK(fixture.status(std::move(split)) == kOk);
  CHECK(fixture.disk.log == "read@7 ");
  CHECK(fixture.status(
            fixture.queue.readable(std::span(header).first(15)).writable(512).writable(1)) ==
        kIoError);
  CHECK(fixture.status(fixture.queue.writable(512).writable(1)) == kIoError);
}

TEST_CASE("V19: more buffers than promised are served") {
  Fixture fixture;
  testing::RequestBuilder builder = fixture.request(spec::kBlockIn, 0);
  for (int i = 0; i < 1022; i++) std::move(builder).writable(512);
  std::move(builder).writable(1).indirect();
  CHECK(fixture.status(std::move(builder)) == kOk);
}

TEST_CASE("V19: a request without a status byte cannot be answered and breaks the queue") {
  Fixture fixture;
  fixture.request(spec::kBlockFlush).submit();
  fixture.run();
  CHECK(fixture.driver.needs_reset());
  CHECK(!fixture.queue.take_used());
  CHECK(fixture.disk.log.empty());
}

TEST_CASE("V19: a transfer beyond the limit is refused") {
  Fixture fixture;
  testing::RequestBuilder builder = fixture.request(spec::kBlockIn, 0);
  for (uint64_t size = 0; size <= block::kMaxTransfer; size += kMiB)
    std::move(builder).writable_at(GuestAddress(8 * kMiB), kMiB);
  std::move(builder).writable(1).indirect();
  CHECK(fixture.status(std::move(builder)) == kIoError);
}

// Changes the header while the device has it; without instrumentation, since the race is meant.
__attribute__((no_sanitize("thread"))) void flip_header(std::byte* header, uint64_t sector,
                                                        uint32_t type) {
  *reinterpret_cast<volatile uint64_t*>(header + 8) = sector;
  *reinterpret_cast<volatile uint32_t*>(header) = type;
}

TEST_CASE("V02: a header that changes after it was checked changes nothing") {
  Fixture fixture;
  GuestAddress where(0xf00000);
  auto* host = static_cast<std::byte*>(fixture.memory.view({where, 16})->iov_base);
  std::atomic<bool> stop{false};
  std::thread flipper([&] {
    for (uint64_t i = 0; !stop; i++)
      flip_header(host, i % 3 == 0 ? kSectors - 1 : ~0ull >> (i % 60),
                  i % 4 == 0 ? 99 : spec::kBlockIn);
  });
  std::map<int, int> statuses;
  int rounds = 0;
  // The backend is inside its bytes or a sanitizer says so. On a busy host the other thread may not
  // run for long: until it has been seen at work.
  auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (rounds < 20'000 || (statuses.size() < 3 && std::chrono::steady_clock::now() < deadline)) {
    REQUIRE(fixture.memory.write(where, spec::BlockRequestHeader{spec::kBlockIn, 0, 1}));
    // Where both threads share a processor, the other one has its turn now and then.
    if (rounds % 64 == 0) std::this_thread::yield();
    testing::RequestBuilder builder = fixture.queue.request();
    std::move(builder).readable_at(where, 16).writable(512).writable(1);
    statuses[fixture.status(std::move(builder))]++;
    rounds++;
  }
  stop = true;
  flipper.join();
  CHECK(statuses[kOk] > 0);
  CHECK(statuses[kIoError] > 0);
  CHECK(statuses[kUnsupported] > 0);
  CHECK(statuses[kOk] + statuses[kIoError] + statuses[kUnsupported] == rounds);
}

// --- V12, V17 ----------------------------------------------------------------------------------

TEST_CASE("V12: a reset waits for a slow disk, and nothing touches the queue after it") {
  Fixture fixture;
  fixture.disk.delay = std::chrono::microseconds(200);
  std::thread thread([&] { REQUIRE(fixture.loop->run()); });
  uint64_t late = 0;
  for (int i = 0; i < 300; i++) {
    for (int j = 0; j < 16; j++)
      fixture.request(spec::kBlockIn, 0).writable(4096).writable(1).submit();
    fixture.driver.kick(0);
    std::this_thread::sleep_for(std::chrono::microseconds(i % 7 * 50));
    fixture.driver.reset();
    uint64_t calls = fixture.disk.calls;
    uint16_t used = fixture.queue.used_index();
    std::this_thread::sleep_for(std::chrono::microseconds(100));
    late += calls != fixture.disk.calls || used != fixture.queue.used_index();
    fixture.queue.clear();
    fixture.driver.start(kRingFeatures, {&fixture.queue});
  }
  fixture.loop->stop();
  thread.join();
  CHECK(late == 0);
  CHECK(fixture.disk.calls > 300);
}

TEST_CASE("V17: a slow disk is not hurried by notifications") {
  Fixture fixture;
  fixture.disk.delay = std::chrono::microseconds(100);
  std::thread thread([&] { REQUIRE(fixture.loop->run()); });
  for (int i = 0; i < 50; i++)
    fixture.request(spec::kBlockIn, 0).writable(512).writable(1).submit();
  for (int i = 0; i < 100'000; i++) fixture.driver.kick(0);
  while (fixture.queue.used_index() < 50) std::this_thread::yield();
  fixture.loop->stop();
  thread.join();
  CHECK(fixture.disk.calls == 50);
}

TEST_CASE("each completion of a slow disk can interrupt, without waiting for the batch") {
  Fixture fixture;
  // Without event indices: each completion interrupts.
  fixture.driver.reset();
  fixture.queue.clear();
  fixture.driver.start(0, {&fixture.queue});
  for (int i = 0; i < 5; i++) fixture.request(spec::kBlockIn, 0).writable(512).writable(1).submit();
  uint64_t before = fixture.interrupt.count();
  fixture.run();
  CHECK(fixture.interrupt.count() == before + 5);
}

TEST_CASE("V19: 50 000 random requests leave every byte where it belongs") {
  Fixture fixture;
  std::mt19937 random(1);
  std::vector<char> model(kDiskSize);
  uint64_t wrong = 0;
  for (int i = 0; i < 50'000; i++) {
    uint64_t sector = random() % (kSectors + 4);
    uint64_t count = 1 + random() % 8;
    bool inside = sector + count <= kSectors;
    uint64_t offset = sector * 512;
    if (random() % 2 == 0) {
      std::vector<std::byte> data(count * 512, static_cast<std::byte>(random()));
      int status =
          fixture.status(fixture.request(spec::kBlockOut, sector).readable(data).writable(1));
      wrong += status != (inside ? kOk : kIoError);
      if (inside) std::memcpy(model.data() + offset, data.data(), data.size());
    } else {
      int status =
          fixture.status(fixture.request(spec::kBlockIn, sector).writable(count * 512).writable(1));
      wrong += status != (inside ? kOk : kIoError);
      std::vector<std::byte> data = fixture.queue.written(fixture.last);
      wrong += inside && std::memcmp(model.data() + offset, data.data(), count * 512) != 0;
    }
  }
  CHECK(wrong == 0);
  CHECK(model == fixture.disk.bytes);
}

}  // namespace
}  // namespace hutch::virtio
