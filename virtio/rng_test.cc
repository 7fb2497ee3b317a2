#include "virtio/rng.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "base/sys.h"
#include "tests/guest_driver.h"
#include "virtio/mmio.h"

namespace hutch::virtio {
namespace {

using testing::kMiB;

struct Fixture {
  Fixture()
      : transport(MmioTransport::create("rng", memory, rng, interrupt).value()),
        driver(*transport) {
    driver.start(spec::kFeatureIndirectDescriptors, {&queue});
  }
  void run() {
    driver.kick(0);
    REQUIRE(loop->run_once(0));
  }

  GuestMemory memory = testing::make_memory(16 * kMiB);
  std::unique_ptr<Loop> loop = Loop::create().value();
  Rng rng{*loop};
  testing::FakeInterrupt interrupt;
  std::unique_ptr<MmioTransport> transport;
  testing::MmioDriver driver;
  testing::GuestQueue queue{memory, GuestAddress(0x10000), 64};
};

TEST_CASE("random bytes fill all buffers of a request, and differ between requests") {
  Fixture fixture;
  testing::GuestRequest first = fixture.queue.writable(64).writable(64).submit();
  testing::GuestRequest second = fixture.queue.writable(128).submit();
  fixture.run();
  CHECK(fixture.queue.take_used()->length == 128);
  CHECK(fixture.queue.take_used()->length == 128);
  std::vector<std::byte> one = fixture.queue.written(first);
  std::vector<std::byte> two = fixture.queue.written(second);
  CHECK(one != two);
  CHECK(std::ranges::count(one, std::byte{0}) < 16);
  CHECK(fixture.interrupt.count() == 1);
}

TEST_CASE("a request without a writable buffer gets nothing") {
  Fixture fixture;
  fixture.queue.readable(testing::to_bytes("no room")).submit();
  fixture.run();
  CHECK(fixture.queue.take_used()->length == 0);
}

TEST_CASE("V25: a request of gigabytes is answered with a bounded number of bytes") {
  Fixture fixture;
  // Nearly 4 GiB: the whole RAM over and over.
  testing::RequestBuilder builder = fixture.queue.request();
  for (int i = 0; i < 255; i++) std::move(builder).writable_at(GuestAddress(8 * kMiB), 8 * kMiB);
  for (int i = 0; i < 255; i++) std::move(builder).writable_at(GuestAddress(8 * kMiB), 8 * kMiB);
  std::move(builder).indirect().submit();
  fixture.run();
  CHECK(fixture.queue.take_used()->length == Rng::kMaxRequest);
  std::vector<std::byte> behind(64);
  REQUIRE(fixture.memory.read_bytes(GuestAddress(8 * kMiB + Rng::kMaxRequest), behind));
  CHECK(std::ranges::count(behind, std::byte{0}) == 64);
}

TEST_CASE("V25: a guest gets no more random bytes per second than allowed, and no error") {
  Fixture fixture;
  uint64_t bytes = 0, requests = 0;
  uint64_t start = monotonic_ns();
  while (bytes < Rng::kBurst + 4 * Rng::kMaxRequest) {
    for (; requests < 8; requests++) fixture.queue.writable(Rng::kMaxRequest).submit();
    fixture.run();
    for (auto used = fixture.queue.take_used(); used; used = fixture.queue.take_used()) {
      bytes += used->length;
      requests--;
    }
  }
  double seconds = static_cast<double>(monotonic_ns() - start) / 1e9;
  CHECK(seconds < 20);
  CHECK(static_cast<double>(bytes) <= Rng::kBurst + seconds * Rng::kBytesPerSecond + 1);
  CHECK(!fixture.driver.needs_reset());
}

TEST_CASE("V25: a reset while a request waits for bytes") {
  Fixture fixture;
  for (int i = 0; i < 8; i++) fixture.queue.writable(Rng::kMaxRequest).submit();
  fixture.run();
  fixture.driver.reset();
  uint16_t used = fixture.queue.used_index();
  REQUIRE(fixture.loop->run_once(100));
  CHECK(fixture.queue.used_index() == used);
}

}  // namespace
}  // namespace hutch::virtio
