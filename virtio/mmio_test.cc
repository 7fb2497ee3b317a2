// MmioTransport under drivers that follow the initialisation sequence, and under those that do not.
#include "virtio/mmio.h"

#include <doctest/doctest.h>

#include <random>
#include <thread>

#include "base/loop.h"
#include "tests/guest_driver.h"
#include "virtio/queue_runner.h"

namespace hutch::virtio {
namespace {

using testing::FakeInterrupt;
using testing::GuestQueue;
using testing::GuestRequest;
using testing::kMiB;
using testing::make_memory;
using testing::MmioDriver;

constexpr uint64_t kRam = 4 * kMiB;
constexpr uint64_t kRingFeatures = spec::kFeatureEventIndex | spec::kFeatureIndirectDescriptors;
constexpr uint64_t kDeviceFeatures = 0b1011;
constexpr uint32_t kConfigSize = 13;

// Two queues; completes each request with its writable size, unless told to be slow.
class TestDevice final : public Device {
 public:
  explicit TestDevice(Loop& loop)
      : queues_{QueueRunner(loop, handler()), QueueRunner(loop, handler())} {
    for (uint32_t i = 0; i < kConfigSize; i++) config[i] = static_cast<uint8_t>(0xa0 + i);
  }

  DeviceTraits traits() const override {
    return {.device_id = 42,
            .features = kDeviceFeatures,
            .queue_sizes = {64, 16},
            .config_size = kConfigSize};
  }
  void read_config(uint32_t offset, std::span<uint8_t> data) override {
    std::copy_n(config.begin() + offset, data.size(), data.begin());
  }
  void write_config(uint32_t offset, std::span<const uint8_t> data) override {
    std::copy(data.begin(), data.end(), config.begin() + offset);
    config_writes++;
  }
  Result<void> start_queue(uint16_t index, QueueResources resources, uint64_t features) override {
    if (fail_start) return fail("no room");
    negotiated = features;
    started++;
    return queues_[index].start(std::move(resources));
  }
  std::optional<QueueState> stop_queue(uint16_t index) override { return queues_[index].stop(); }
  void reset() override { resets++; }

  std::array<uint8_t, kConfigSize> config;
  int config_writes = 0;
  uint64_t negotiated = 0;
  int started = 0;
  int resets = 0;
  bool fail_start = false;
  std::atomic<uint64_t> served{0};
  std::chrono::microseconds delay{0};

 private:
  QueueRunner::Handler handler() {
    return [this](const Chain& chain) -> Result<std::optional<uint64_t>> {
      if (delay.count() > 0) std::this_thread::sleep_for(delay);
      served++;
      return chain.writable_size();
    };
  }
  QueueRunner queues_[2];
};

struct Fixture {
  explicit Fixture(std::span<std::byte> page = {})
      : transport(MmioTransport::create("test", memory, device, interrupt, page).value()),
        driver(*transport) {}

  void start(uint64_t features = kRingFeatures) { driver.start(features, {&first, &second}); }
  void run() { REQUIRE(loop->run_once(0)); }

  GuestMemory memory = make_memory(kRam);
  std::unique_ptr<Loop> loop = Loop::create().value();
  TestDevice device{*loop};
  FakeInterrupt interrupt;
  std::unique_ptr<MmioTransport> transport;
  MmioDriver driver;
  GuestQueue first{memory, GuestAddress(0x10000), 64};
  GuestQueue second{memory, GuestAddress(0x200000), 16};
};

TEST_CASE("a driver finds the device, starts it and gets requests served") {
  Fixture fixture;
  CHECK(fixture.driver.read(spec::kRegisterMagic) == 0x74726976);
  CHECK(fixture.driver.read(spec::kRegisterVersion) == 2);
  CHECK(fixture.driver.read(spec::kRegisterDeviceId) == 42);
  CHECK(fixture.driver.offered_features() ==
        (kDeviceFeatures | kRingFeatures | spec::kFeatureVersion1));
  fixture.start(kRingFeatures | 1);
  CHECK(fixture.driver.status() == 0xf);
  CHECK(fixture.device.started == 2);
  CHECK(fixture.device.negotiated == (kRingFeatures | spec::kFeatureVersion1 | 1));

  fixture.run();
  GuestRequest request = fixture.second.writable(7).submit();
  fixture.driver.kick(1);
  fixture.run();
  CHECK(fixture.second.take_used()->length == 7);
  CHECK(fixture.interrupt.count() == 1);
  CHECK(fixture.driver.read(spec::kRegisterInterruptStatus) == spec::kInterruptUsedBuffer);
  fixture.driver.write(spec::kRegisterInterruptAcknowledge, spec::kInterruptUsedBuffer);
  CHECK(fixture.driver.read(spec::kRegisterInterruptStatus) == 0);
  CHECK(!fixture.driver.needs_reset());
}

TEST_CASE("requests made available before DRIVER_OK are served without a notification") {
  Fixture fixture;
  fixture.first.writable(7).submit();
  fixture.start();
  fixture.run();
  CHECK(fixture.first.take_used()->length == 7);
}

TEST_CASE("the page holds what is read, at every step of a driver") {
  struct alignas(4096) Page {
    std::array<std::byte, MmioTransport::kSize> bytes{};
  };
  auto page = std::make_unique<Page>();
  Fixture fixture(page->bytes);
  auto in_page = [&](uint64_t offset) {
    uint32_t value;
    std::memcpy(&value, page->bytes.data() + offset, sizeof value);
    return value;
  };
  auto is_true = [&] {
    for (uint64_t offset = 0; offset < MmioTransport::kSize; offset += 4)
      if (in_page(offset) != fixture.driver.read(offset)) return false;
    return true;
  };
  CHECK(in_page(spec::kRegisterMagic) == 0x74726976);
  CHECK(in_page(spec::kRegisterConfig) == 0xa3a2a1a0);
  CHECK(in_page(spec::kRegisterConfig + 12) == 0xffffffac);
  CHECK(in_page(spec::kRegisterSharedMemoryLengthLow) == UINT32_MAX);
  CHECK(is_true());
  fixture.driver.write(spec::kRegisterDeviceFeaturesSelect, 1);
  CHECK(in_page(spec::kRegisterDeviceFeatures) == spec::kFeatureVersion1 >> 32);
  fixture.driver.write(spec::kRegisterDeviceFeaturesSelect, 2);
  CHECK(in_page(spec::kRegisterDeviceFeatures) == 0);
  fixture.driver.write(spec::kRegisterQueueSelect, 1);
  CHECK(in_page(spec::kRegisterQueueSizeMax) == 16);
  fixture.driver.write(spec::kRegisterQueueSelect, 2);
  CHECK(in_page(spec::kRegisterQueueSizeMax) == 0);
  fixture.start();
  CHECK(in_page(spec::kRegisterStatus) == 0xf);
  fixture.driver.write(spec::kRegisterQueueSelect, 0);
  CHECK(in_page(spec::kRegisterQueueReady) == 1);
  fixture.first.writable(7).submit();
  fixture.driver.kick(0);
  fixture.run();
  CHECK(in_page(spec::kRegisterInterruptStatus) == spec::kInterruptUsedBuffer);
  fixture.driver.write(spec::kRegisterInterruptAcknowledge, spec::kInterruptUsedBuffer);
  CHECK(in_page(spec::kRegisterInterruptStatus) == 0);
  fixture.device.config[0] = 0x11;
  fixture.transport->configuration_changed();
  CHECK(in_page(spec::kRegisterConfig) == 0xa3a2a111);
  CHECK(in_page(spec::kRegisterConfigGeneration) == 1);
  fixture.transport->write(spec::kRegisterConfig + 1, std::array<uint8_t, 1>{0x22});
  CHECK(in_page(spec::kRegisterConfig) == 0xa3a22211);
  fixture.first.raw_available_index(1000);
  fixture.driver.kick(0);
  fixture.run();
  CHECK(in_page(spec::kRegisterStatus) == (0xf | spec::kStatusNeedsReset));
  // Steps of a driver do not take that away.
  fixture.driver.add_status(spec::kStatusFailed);
  CHECK((in_page(spec::kRegisterStatus) & spec::kStatusNeedsReset) != 0);
  CHECK(is_true());
  snapshot::SavedTransport saved = fixture.transport->save();
  fixture.driver.reset();
  CHECK(in_page(spec::kRegisterStatus) == 0);
  CHECK(in_page(spec::kRegisterInterruptStatus) == 0);
  saved.interrupt_status = spec::kInterruptConfigChange;
  REQUIRE(fixture.transport->restore(saved));
  CHECK(in_page(spec::kRegisterStatus) == (0xf | spec::kStatusFailed | spec::kStatusNeedsReset));
  CHECK(in_page(spec::kRegisterInterruptStatus) == spec::kInterruptConfigChange);
  CHECK(in_page(spec::kRegisterConfigGeneration) == 1);
  CHECK(is_true());
}

TEST_CASE("a changed configuration has a new generation and an interrupt of its own") {
  Fixture fixture;
  fixture.start();
  uint32_t before = fixture.driver.read(spec::kRegisterConfigGeneration);
  fixture.transport->configuration_changed();
  CHECK(fixture.driver.read(spec::kRegisterConfigGeneration) != before);
  CHECK(fixture.driver.read(spec::kRegisterInterruptStatus) == spec::kInterruptConfigChange);
  CHECK(fixture.interrupt.count() == 1);
}

TEST_CASE("a broken ring: DEVICE_NEEDS_RESET and one interrupt, and a reset mends it") {
  Fixture fixture;
  fixture.start();
  fixture.run();
  for (int i = 0; i < 3; i++) {
    fixture.first.raw_available_index(1000);
    fixture.second.raw_available_index(1000);
    fixture.driver.kick(0);
    fixture.driver.kick(1);
    fixture.run();
  }
  CHECK(fixture.driver.needs_reset());
  CHECK(fixture.interrupt.count() == 1);
  CHECK(fixture.driver.read(spec::kRegisterInterruptStatus) == spec::kInterruptConfigChange);
  // Writing the bit back, as a driver that adds FAILED does, changes nothing.
  fixture.driver.add_status(spec::kStatusFailed);
  CHECK(fixture.driver.needs_reset());

  fixture.driver.reset();
  CHECK(fixture.driver.status() == 0);
  CHECK(fixture.driver.read(spec::kRegisterInterruptStatus) == 0);
  fixture.first.clear();
  fixture.second.clear();
  fixture.start();
  fixture.first.writable(5).submit();
  fixture.driver.kick(0);
  fixture.run();
  CHECK(fixture.first.take_used()->length == 5);
}

TEST_CASE("a queue that the device cannot start stops them all") {
  Fixture fixture;
  fixture.device.fail_start = true;
  fixture.start();
  CHECK(fixture.driver.needs_reset());
  CHECK(fixture.interrupt.count() == 1);
}

TEST_CASE("a paused queue goes on where it stood") {
  Fixture fixture;
  fixture.start();
  fixture.first.writable(1).submit();
  fixture.run();
  fixture.transport->pause();
  fixture.first.writable(2).submit();
  fixture.driver.kick(0);
  fixture.run();
  CHECK(fixture.device.served == 1);
  REQUIRE(fixture.transport->resume());
  fixture.run();
  CHECK(fixture.first.take_used()->length == 1);
  CHECK(fixture.first.take_used()->length == 2);
  CHECK(fixture.device.served == 2);
}

TEST_CASE("V03: a looping chain reaches the driver as DEVICE_NEEDS_RESET") {
  Fixture fixture;
  fixture.start();
  fixture.first.raw_descriptor(0, 0x100000, 1, spec::kDescriptorNext, 0);
  fixture.first.raw_publish(0);
  fixture.driver.kick(0);
  fixture.run();
  CHECK(fixture.driver.needs_reset());
  CHECK(fixture.device.served == 0);
}

// --- V10 ---------------------------------------------------------------------------------------

TEST_CASE("V10: no step of the initialisation before the one it follows") {
  Fixture fixture;
  auto after = [&](std::initializer_list<uint32_t> values) {
    fixture.driver.reset();
    fixture.driver.accept_features(spec::kFeatureVersion1);
    for (uint32_t value : values) fixture.driver.write(spec::kRegisterStatus, value);
    return fixture.driver.status();
  };
  CHECK(after({2}) == 0);
  CHECK(after({4}) == 0);
  CHECK(after({8}) == 0);
  CHECK(after({1, 1 | 8}) == 1);
  CHECK(after({1, 1 | 4}) == 1);
  CHECK(after({1, 3, 3 | 4}) == 3);
  CHECK(after({1, 3, 11}) == 11);
  CHECK(after({1, 3, 11, 15}) == 15);
  CHECK(after({1, 3, 11, 15, 0}) == 0);
  CHECK(after({64}) == 0);
  CHECK(after({128}) == 128);
  CHECK(after({0xff}) == (128 | 15));
  CHECK(after({0xffffff00}) == 0);
}

TEST_CASE("V10: status bits are cleared by a reset only") {
  Fixture fixture;
  fixture.start();
  for (uint32_t value : {1u, 3u, 7u, 11u, 14u, 128u})
    fixture.driver.write(spec::kRegisterStatus, value);
  CHECK(fixture.driver.status() == 15);
  CHECK(fixture.device.started == 2);
}

TEST_CASE("V10: a million random status and queue writes keep the state machine's promises") {
  Fixture fixture;
  std::mt19937 random(1);
  auto any_value = [&] { return static_cast<uint32_t>(random()); };
  constexpr uint64_t kOffsets[] = {spec::kRegisterStatus,
                                   spec::kRegisterStatus,
                                   spec::kRegisterStatus,
                                   spec::kRegisterDriverFeatures,
                                   spec::kRegisterQueueSelect,
                                   spec::kRegisterQueueSize,
                                   spec::kRegisterQueueReady,
                                   spec::kRegisterQueueNotify,
                                   spec::kRegisterQueueDriverLow,
                                   spec::kRegisterQueueDeviceHigh,
                                   spec::kRegisterDriverFeaturesSelect};
  constexpr uint32_t kValues[] = {0, 1, 3, 11, 15, 2, 4, 8, 64, 128, 0xff, 0x80000000, 0x10000};
  uint64_t impossible = 0, running_steps = 0, resets = 0;
  uint32_t before = 0;
  for (int i = 0; i < 1'000'000; i++) {
    uint64_t offset = kOffsets[random() % std::size(kOffsets)];
    uint32_t value = random() % 8 == 0 ? any_value() : kValues[random() % std::size(kValues)];
    fixture.driver.write(offset, value);
    uint32_t status = fixture.driver.status();
    bool is_reset = offset == spec::kRegisterStatus && value == 0;
    impossible += (status & 4) != 0 && (status & 11) != 11;
    impossible += (status & 8) != 0 && (status & 3) != 3;
    impossible += !is_reset && (before & ~status) != 0;
    impossible += is_reset && status != 0;
    running_steps += (status & 4) != 0;
    resets += is_reset;
    before = status;
    if (i % 64 == 0) fixture.run();
  }
  CHECK(impossible == 0);
  CHECK(running_steps > 0);
  CHECK(resets > 0);
}

// --- V11 ---------------------------------------------------------------------------------------

TEST_CASE("V11: the queue configuration is frozen from DRIVER_OK until a reset") {
  Fixture fixture;
  fixture.start();
  fixture.driver.write(spec::kRegisterQueueSelect, 0);
  fixture.driver.write(spec::kRegisterQueueReady, 0);
  CHECK(fixture.driver.read(spec::kRegisterQueueReady) == 1);
  fixture.driver.write(spec::kRegisterQueueSize, 0);
  fixture.driver.write(spec::kRegisterQueueDescriptorsLow, 0xfffffff0);
  fixture.driver.write(spec::kRegisterQueueDeviceLow, 0xfffffff0);
  fixture.first.writable(3).submit();
  fixture.driver.kick(0);
  fixture.run();
  CHECK(fixture.first.take_used()->length == 3);

  fixture.driver.reset();
  CHECK(fixture.driver.read(spec::kRegisterQueueReady) == 0);
}

TEST_CASE("V11: a ready queue is not reconfigured, one that is not ready does not run") {
  Fixture fixture;
  REQUIRE(fixture.driver.negotiate(spec::kFeatureVersion1));
  fixture.driver.configure(0, fixture.first.layout());
  fixture.driver.write(spec::kRegisterQueueSize, 3);
  fixture.driver.configure(1, fixture.second.layout());
  fixture.driver.write(spec::kRegisterQueueReady, 0);
  CHECK(fixture.driver.read(spec::kRegisterQueueReady) == 0);
  fixture.driver.add_status(spec::kStatusDriverOk);
  CHECK(!fixture.driver.needs_reset());
  CHECK(fixture.device.started == 1);
}

TEST_CASE("V11: bad geometry is refused at DRIVER_OK") {
  auto refused = [](auto change) {
    Fixture fixture;
    QueueLayout layout = fixture.first.layout();
    change(layout);
    REQUIRE(fixture.driver.negotiate(spec::kFeatureVersion1));
    fixture.driver.configure(1, fixture.second.layout());
    fixture.driver.configure(0, layout);
    fixture.driver.add_status(spec::kStatusDriverOk);
    // What had been started is stopped again.
    fixture.second.writable(1).submit();
    fixture.driver.kick(1);
    fixture.run();
    return fixture.driver.needs_reset() && fixture.device.served == 0;
  };
  CHECK(!refused([](QueueLayout&) {}));
  for (uint32_t size : {0u, 3u, 128u, 0x10000u, 0x10040u, 0xffffffffu})
    CHECK(refused([&](QueueLayout& layout) { layout.size = size; }));
  CHECK(refused([](QueueLayout& layout) { layout.descriptors = GuestAddress(0x10008); }));
  CHECK(refused([](QueueLayout& layout) { layout.available = GuestAddress(kRam); }));
  CHECK(refused([](QueueLayout& layout) { layout.used = GuestAddress(0xfffffffffffffff0); }));
}

TEST_CASE("V11: queues that do not exist have no size and take no configuration") {
  Fixture fixture;
  REQUIRE(fixture.driver.negotiate(spec::kFeatureVersion1));
  for (uint32_t index : {2u, 3u, 0x10000u, 0x80000000u, 0xffffffffu}) {
    fixture.driver.configure(index, fixture.first.layout());
    CHECK(fixture.driver.read(spec::kRegisterQueueSizeMax) == 0);
    CHECK(fixture.driver.read(spec::kRegisterQueueReady) == 0);
  }
  fixture.driver.add_status(spec::kStatusDriverOk);
  CHECK(fixture.device.started == 0);
}

// --- V12, V17 ----------------------------------------------------------------------------------

TEST_CASE("V12: resets while requests are in flight on another thread leave nothing behind") {
  Fixture fixture;
  fixture.device.delay = std::chrono::microseconds(20);
  std::thread thread([&] { REQUIRE(fixture.loop->run()); });
  uint64_t late_writes = 0;
  for (int i = 0; i < 2'000; i++) {
    fixture.first.clear();
    fixture.start();
    for (int j = 0; j < 8; j++) fixture.first.writable(16).submit();
    fixture.driver.kick(0);
    if (i % 3 == 0) std::this_thread::yield();
    fixture.driver.reset();
    // After the reset the device no longer touches the ring.
    uint16_t used = fixture.first.used_index();
    uint64_t served = fixture.device.served;
    if (i % 16 == 0) std::this_thread::sleep_for(std::chrono::microseconds(100));
    late_writes += used != fixture.first.used_index() || served != fixture.device.served;
  }
  fixture.loop->stop();
  thread.join();
  CHECK(late_writes == 0);
  CHECK(fixture.device.served > 0);
}

TEST_CASE("V12: 100 000 resets with requests waiting") {
  Fixture fixture;
  for (int i = 0; i < 100'000; i++) {
    fixture.driver.reset();
    fixture.first.raw_available_index(0);
    fixture.driver.start(kRingFeatures, {&fixture.first, &fixture.second});
    fixture.first.raw_publish(0);
    fixture.driver.kick(0);
  }
  CHECK(fixture.device.started == 200'000);
  CHECK(!fixture.driver.needs_reset());
}

TEST_CASE("a reset waits for the loop while the loop reports a broken queue") {
  Fixture fixture;
  std::thread thread([&] { REQUIRE(fixture.loop->run()); });
  for (int i = 0; i < 1'000; i++) {
    fixture.first.clear();
    fixture.start();
    fixture.first.raw_available_index(1000);
    fixture.driver.kick(0);
    fixture.driver.reset();
    CHECK(fixture.driver.status() == 0);
  }
  fixture.loop->stop();
  thread.join();
}

TEST_CASE("V17: notifications of queues that do not exist or do not run are nothing") {
  Fixture fixture;
  for (uint32_t index : {0u, 1u, 2u, 0x10000u, 0xffffffffu}) fixture.driver.kick(index);
  fixture.run();
  REQUIRE(fixture.driver.negotiate(spec::kFeatureVersion1));
  fixture.driver.configure(0, fixture.first.layout());
  fixture.driver.add_status(spec::kStatusDriverOk);
  fixture.first.writable(1).submit();
  for (uint32_t index : {1u, 2u, 0xffffffffu}) fixture.driver.kick(index);
  fixture.run();
  CHECK(!fixture.driver.needs_reset());
  CHECK(fixture.device.served == 1);
}

TEST_CASE("V17: a storm of notifications costs the loop one turn, not one each") {
  Fixture fixture;
  fixture.start();
  fixture.run();
  struct Counter final : AccessObserver {
    void on_read(GuestRange) override { count++; }
    void on_write(GuestRange) override {}
    uint64_t count = 0;
  } counter;
  for (int i = 0; i < 1'000'000; i++) fixture.driver.kick(0);
  fixture.memory.set_observer(&counter);
  fixture.run();
  fixture.run();
  fixture.memory.set_observer(nullptr);
  CHECK(counter.count <= 4);
  CHECK(fixture.interrupt.count() == 0);
}

TEST_CASE("V17: a driver that never stops asking does not keep the loop from others") {
  Fixture fixture;
  fixture.start();
  fixture.run();
  for (int i = 0; i < 64; i++) fixture.first.writable(1).submit();
  fixture.driver.kick(0);
  fixture.run();
  CHECK(fixture.device.served == 64);
  // The ring was full, so the device has asked itself for another turn instead of going on.
  CHECK(fixture.transport->notify_events()[0].drain() == 1);
}

// --- V13 ---------------------------------------------------------------------------------------

TEST_CASE("V13: exactly the subsets of the offered features with VERSION_1 are accepted") {
  Fixture fixture;
  const uint64_t offered = kDeviceFeatures | kRingFeatures | spec::kFeatureVersion1;
  constexpr uint64_t kBits[] = {1,
                                2,
                                4,
                                8,
                                spec::kFeatureEventIndex,
                                spec::kFeatureIndirectDescriptors,
                                spec::kFeatureVersion1,
                                1ull << 63};
  uint64_t wrong = 0;
  auto check = [&](uint64_t features) {
    bool expected = (features & ~offered) == 0 && (features & spec::kFeatureVersion1) != 0;
    wrong += fixture.driver.negotiate(features) != expected;
  };
  for (uint32_t subset = 0; subset < 1u << std::size(kBits); subset++) {
    uint64_t features = 0;
    for (size_t i = 0; i < std::size(kBits); i++) features |= (subset >> i & 1) != 0 ? kBits[i] : 0;
    check(features);
  }
  std::mt19937_64 random(1);
  for (int i = 0; i < 100'000; i++) check(random());
  for (int i = 0; i < 100'000; i++) check((random() & offered) | spec::kFeatureVersion1);
  CHECK(wrong == 0);
}

TEST_CASE("V13: features are frozen at FEATURES_OK, and bits from 64 on are not accepted") {
  Fixture fixture;
  REQUIRE(fixture.driver.negotiate(spec::kFeatureVersion1));
  fixture.driver.accept_features(~0ull);
  fixture.driver.configure(0, fixture.first.layout());
  fixture.driver.add_status(spec::kStatusDriverOk);
  CHECK(fixture.device.negotiated == spec::kFeatureVersion1);

  fixture.driver.reset();
  fixture.driver.add_status(1);
  fixture.driver.add_status(2);
  fixture.driver.accept_features(spec::kFeatureVersion1);
  fixture.driver.write(spec::kRegisterDriverFeaturesSelect, 2);
  fixture.driver.write(spec::kRegisterDriverFeatures, 1);
  fixture.driver.add_status(8);
  CHECK(fixture.driver.status() == 3);
}

// --- V14, V15 ----------------------------------------------------------------------------------

TEST_CASE("V14: configuration accesses of every width at every offset stay inside it") {
  Fixture fixture;
  for (uint64_t width : {1u, 2u, 4u, 8u}) {
    for (int64_t offset = -8; offset < kConfigSize + 8; offset++) {
      std::array<uint8_t, 8> data{};
      uint64_t address = spec::kRegisterConfig + static_cast<uint64_t>(offset);
      fixture.transport->read(address, std::span(data).first(width));
      bool is_register = offset < 0 && address % 4 == 0 && width == 4;
      for (uint64_t i = 0; i < width; i++) {
        const int64_t at = offset + static_cast<int64_t>(i);
        bool inside = offset >= 0 && at < kConfigSize;
        uint8_t expected = inside ? static_cast<uint8_t>(0xa0 + at) : 0xff;
        CHECK((is_register || data[i] == expected));
      }
    }
  }
  std::array<uint8_t, kConfigSize> before = fixture.device.config;
  std::array<uint8_t, 8> ones;
  ones.fill(0xff);
  for (uint64_t width : {1u, 2u, 4u, 8u}) {
    for (uint64_t offset = kConfigSize - width + 1; offset < kConfigSize + 8; offset++)
      fixture.transport->write(spec::kRegisterConfig + offset, std::span(ones).first(width));
  }
  CHECK(fixture.device.config_writes == 0);
  CHECK(fixture.device.config == before);
  fixture.transport->write(spec::kRegisterConfig + kConfigSize - 2, std::span(ones).first(2));
  CHECK(fixture.device.config_writes == 1);
  CHECK(fixture.device.config[kConfigSize - 1] == 0xff);
}

TEST_CASE("V15: registers answer aligned 32-bit accesses only") {
  Fixture fixture;
  fixture.start();
  for (uint64_t offset = 0; offset < spec::kRegisterConfig; offset++) {
    for (uint64_t width : {1u, 2u, 4u, 8u}) {
      std::array<uint8_t, 8> data{};
      bool is_register = offset % 4 == 0 && width == 4;
      fixture.transport->read(offset, std::span(data).first(width));
      for (uint64_t i = 0; i < width; i++) CHECK((is_register || data[i] == 0xff));
      data.fill(0);
      std::array<uint8_t, 4> kept{};
      fixture.transport->read(spec::kRegisterStatus, kept);
      // Were it taken, a zero in the status register would be a reset.
      std::span<const uint8_t> zeroes = std::span(data).first(is_register ? 0 : width);
      fixture.transport->write(offset, zeroes);
    }
  }
  CHECK(fixture.driver.status() == 15);
}

TEST_CASE("V15: every offset of the device's space takes every width") {
  Fixture fixture;
  std::array<uint8_t, 8> data{};
  for (uint64_t offset = 0; offset < MmioTransport::kSize; offset++) {
    for (uint64_t width = 1; width <= 8; width++) {
      fixture.transport->write(offset, std::span(data).first(width));
      fixture.transport->read(offset, std::span(data).first(width));
    }
  }
  CHECK(fixture.driver.read(spec::kRegisterMagic) == spec::kMmioMagic);
}

TEST_CASE("several vCPUs in the registers at once") {
  Fixture fixture;
  std::thread loop([&] { REQUIRE(fixture.loop->run()); });
  fixture.start();
  std::vector<std::thread> threads;
  for (unsigned seed = 0; seed < 3; seed++) {
    threads.emplace_back([&, seed] {
      std::mt19937 random(seed);
      for (int i = 0; i < 20'000; i++) {
        fixture.driver.write(4 * (random() % 64), static_cast<uint32_t>(random() % 16));
        fixture.driver.read(4 * (random() % 80));
        fixture.driver.kick(static_cast<uint32_t>(random() % 2));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  fixture.driver.reset();
  CHECK(fixture.driver.status() == 0);
  fixture.loop->stop();
  loop.join();
}

}  // namespace
}  // namespace hutch::virtio
