// The network device: its configuration, negotiation (V13), start, stop, and threads (V09, V12).
#include <doctest/doctest.h>

#include <random>
#include <thread>

#include "tests/net_machine.h"

namespace hutch::virtio::net {
namespace {

using namespace testing;
using Machine = NetMachine;

// --- The device --------------------------------------------------------------------------------

TEST_CASE("the driver finds a network device with its address, its MTU and its link up") {
  Machine machine(kAllFeatures, {.mac = {2, 1, 2, 3, 4, 5}, .mtu = 9000});
  CHECK(machine.driver.read(spec::kRegisterDeviceId) == 1);
  CHECK(machine.driver.offered_features() == (kAllFeatures | spec::kFeatureVersion1));
  CHECK(machine.driver.read(spec::kRegisterConfig) == 0x03020102);
  CHECK(machine.driver.read(spec::kRegisterConfig + 4) == 0x0001'0504);
  CHECK(machine.driver.read(spec::kRegisterConfig + 8) == (9000u << 16 | 1));
  CHECK(machine.driver.read(spec::kRegisterConfig + 12) == 0xffffffff);
  machine.driver.write(spec::kRegisterConfig, 0);
  CHECK(machine.driver.read(spec::kRegisterConfig) == 0x03020102);
}

TEST_CASE("the MTU is 1500 unless said otherwise") {
  Machine machine;
  CHECK(machine.driver.read(spec::kRegisterConfig + 8) == (1500u << 16 | 1));
}

// --- Negotiation -------------------------------------------------------------------------------

TEST_CASE("V13, V20: each subset of the features allows what it says, and no more") {
  constexpr uint64_t kBits[] = {spec::kNetFeatureChecksum,  spec::kNetFeatureGuestChecksum,
                                spec::kNetFeatureMtu,       spec::kNetFeatureMac,
                                spec::kNetFeatureGuestTcp4, spec::kNetFeatureGuestTcp6,
                                spec::kNetFeatureHostTcp4,  spec::kNetFeatureHostTcp6,
                                spec::kNetFeatureStatus,    spec::kNetFeatureMergeableBuffers,
                                spec::kFeatureEventIndex,   spec::kFeatureIndirectDescriptors};
  Machine machine;
  const Bytes small = make_frame(60), middle = make_frame(1514), large = make_frame(3000);
  Bytes large6 = large;
  large6[12] = std::byte{0x86};
  large6[13] = std::byte{0xdd};
  large6[14] = std::byte{0x60};
  large6[20] = std::byte{6};
  large6[54 + 12] = std::byte{5 << 4};
  spec::NetHeader checksum = segment_header();
  checksum.segmentation = spec::kNetSegmentationNone;
  spec::NetHeader segment6 = segment_header();
  segment6.segmentation = spec::kNetSegmentationTcp6;
  segment6.checksum_start = 54;
  segment6.header_length = 74;
  FrameOffload checksum_offload = segment_offload();
  checksum_offload.segmentation = Segmentation::kNone;

  uint32_t wrong = 0;
  for (uint32_t subset = 0; subset < 1u << std::size(kBits); subset++) {
    uint64_t features = 0;
    for (size_t i = 0; i < std::size(kBits); i++) {
      if ((subset >> i & 1) != 0) features |= kBits[i];
    }
    auto has = [&](uint64_t bits) { return (features & bits) == bits; };
    machine.restart(features);

    // From the guest, all in one go.
    const bool is_checksum = has(spec::kNetFeatureChecksum);
    const std::pair<bool, const Bytes*> expected[] = {
        {true, &small},
        {is_checksum, &small},
        {is_checksum && has(spec::kNetFeatureHostTcp4), &large},
        {is_checksum && has(spec::kNetFeatureHostTcp6), &large6},
        {!has(spec::kNetFeatureMtu), &large},
        {true, &middle}};
    machine.submit(plain_header(), small);
    machine.submit(checksum, small);
    machine.submit(segment_header(), large);
    machine.submit(segment6, large6);
    machine.submit(plain_header(), large);
    machine.submit(plain_header(), middle);
    machine.kick_tx();
    size_t index = 0;
    for (const auto& [passes, frame] : expected) {
      if (!passes) continue;
      wrong +=
          index >= machine.far_side.frames.size() || machine.far_side.frames[index].bytes != *frame;
      index++;
    }
    wrong += machine.far_side.frames.size() != index;

    // To the guest, in buffers that hold any frame, and in such that do not.
    const bool is_guest_checksum = has(spec::kNetFeatureGuestChecksum);
    const FrameSender::Abilities abilities = machine.device.abilities();
    const bool is_tcp4 = is_guest_checksum && has(spec::kNetFeatureGuestTcp4);
    const bool is_tcp6 = is_guest_checksum && has(spec::kNetFeatureGuestTcp6);
    wrong += abilities.checksum != is_guest_checksum || abilities.tcp4 != is_tcp4 ||
             abilities.tcp6 != is_tcp6;
    auto arrives = [&](const Bytes& frame, const FrameOffload& offload, uint64_t buffer) {
      machine.post(buffer, 3);
      wrong += !machine.send(frame, offload);
      machine.device.flush();
      std::optional<Machine::Arrived> arrived = machine.receive();
      wrong += arrived.has_value() && arrived->bytes != frame;
      // The rest is used up, so that each starts alike.
      while (!machine.posted.empty() && machine.send(small)) {
        machine.device.flush();
        wrong += machine.receive_bytes() != small;
      }
      return arrived.has_value();
    };
    wrong += !arrives(small, {}, 4096);
    wrong += !arrives(middle, {}, 4096);
    wrong += arrives(large, {}, 4096);
    wrong += arrives(small, checksum_offload, 4096) != is_guest_checksum;
    wrong += arrives(small, {.checked = true}, 4096) != is_guest_checksum;
    wrong += arrives(large, segment_offload(), 4096) != is_tcp4;
    wrong += arrives(large6, segment_offload(Segmentation::kTcp6), 4096) != is_tcp6;
    wrong += arrives(middle, {}, 1000) != has(spec::kNetFeatureMergeableBuffers);
    wrong += machine.driver.needs_reset();
    REQUIRE(wrong == 0);
  }
}

// --- Start, stop, reset ------------------------------------------------------------------------

TEST_CASE("before a driver is there the device is able to do nothing, and its far side waits") {
  Machine machine;
  machine.driver.reset();
  CHECK(!machine.device.abilities().checksum);
  CHECK(!machine.send(make_frame(60)));
  machine.device.flush();
  machine.run();
  CHECK(machine.far_side.rooms == 0);
  machine.rx.clear();
  machine.tx.clear();
  machine.posted.clear();
  machine.post();
  machine.driver.start(kAllFeatures, {&machine.rx, &machine.tx});
  CHECK(machine.far_side.rooms == 0);
  machine.run();
  CHECK(machine.far_side.rooms == 1);
  CHECK(machine.device.abilities().checksum);
  CHECK(machine.send(make_frame(60)));
}

TEST_CASE("a driver that sets up one queue has that one") {
  Machine machine;
  for (uint16_t index : {spec::kNetQueueReceive, spec::kNetQueueTransmit}) {
    machine.driver.reset();
    machine.rx.clear();
    machine.tx.clear();
    machine.posted.clear();
    REQUIRE(machine.driver.negotiate(kAllFeatures | spec::kFeatureVersion1));
    const bool is_receive = index == spec::kNetQueueReceive;
    machine.driver.configure(index, (is_receive ? machine.rx : machine.tx).layout());
    machine.driver.add_status(spec::kStatusDriverOk);
    machine.post();
    CHECK(machine.send(make_frame(60)) == is_receive);
    machine.device.flush();
    machine.driver.kick(spec::kNetQueueReceive);
    CHECK(machine.passes(plain_header(), make_frame(60)) == !is_receive);
  }
}

TEST_CASE("a pause keeps frames on both sides, and loses none") {
  Machine machine;
  machine.post(kRxBuffer, 2);
  CHECK(machine.send(make_frame(60)));  // not flushed
  for (unsigned i = 0; i < 3; i++) machine.submit(plain_header(), make_frame(60, i));
  machine.kick_tx();
  const uint64_t before = machine.interrupt.count();
  machine.transport->pause();
  // What the device had sent is the guest's.
  CHECK(machine.rx.used_index() == 1);
  CHECK(machine.interrupt.count() == before + 1);
  CHECK(machine.receive_bytes() == make_frame(60));

  for (unsigned i = 3; i < 6; i++) machine.submit(plain_header(), make_frame(60, i));
  machine.post();
  machine.driver.kick(spec::kNetQueueTransmit);
  machine.driver.kick(spec::kNetQueueReceive);
  machine.run();
  CHECK(machine.far_side.frames.size() == 3);
  CHECK(!machine.device.abilities().tcp4);
  CHECK(!machine.send(make_frame(61)));
  machine.device.flush();
  CHECK(machine.rx.used_index() == 1);
  CHECK(machine.far_side.rooms == 0);

  REQUIRE(machine.transport->resume());
  machine.run();
  REQUIRE(machine.far_side.frames.size() == 6);
  for (unsigned i = 0; i < 6; i++) CHECK(machine.far_side.frames[i].bytes == make_frame(60, i));
  CHECK(machine.far_side.rooms == 1);
  CHECK(machine.device.abilities().tcp4);
  CHECK(machine.send(make_frame(61)));
  machine.device.flush();
  CHECK(machine.receive_bytes() == make_frame(61));
}

TEST_CASE("a pause while the far side waits for room") {
  Machine machine;
  CHECK(!machine.send(make_frame(60)));
  machine.transport->pause();
  machine.post();
  machine.driver.kick(spec::kNetQueueReceive);
  REQUIRE(machine.transport->resume());
  machine.run();
  CHECK(machine.far_side.rooms == 1);
  CHECK(machine.send(make_frame(60)));
  machine.device.flush();
  CHECK(machine.receive_bytes() == make_frame(60));
}

TEST_CASE("the state of a stopped queue counts what it has done") {
  Machine machine;
  machine.post(100, 4);
  CHECK(machine.send(make_frame(200), segment_offload()));
  CHECK(!machine.send(make_frame(200), segment_offload()));  // one is left, and stays
  for (int i = 0; i < 5; i++) machine.submit(plain_header(), make_frame(60));
  machine.kick_tx();
  CHECK(machine.device.stop_queue(spec::kNetQueueReceive) == QueueState{3, 3});
  CHECK(machine.device.stop_queue(spec::kNetQueueTransmit) == QueueState{5, 5});
  CHECK(!machine.device.stop_queue(spec::kNetQueueReceive));
  CHECK(!machine.device.stop_queue(spec::kNetQueueTransmit));
}

TEST_CASE("a reset forgets what was negotiated, and the next driver gets what waits") {
  Machine machine;
  machine.post();
  CHECK(machine.send(make_frame(60), segment_offload()));
  CHECK(!machine.send(make_frame(60)));
  machine.submit(plain_header(), make_frame(60));
  machine.driver.reset();
  const uint16_t used = machine.tx.used_index();
  machine.driver.kick(spec::kNetQueueTransmit);
  machine.run();
  CHECK(machine.tx.used_index() == used);
  CHECK(machine.far_side.frames.empty());
  CHECK(machine.far_side.rooms == 0);

  machine.restart(0);
  CHECK(machine.far_side.rooms == 1);
  CHECK(!machine.device.abilities().checksum);
  machine.post();
  CHECK(machine.send(make_frame(60), segment_offload()));  // dropped
  CHECK(machine.send(make_frame(60)));
  machine.device.flush();
  CHECK(machine.receive().value().header.flags == 0);
  CHECK(machine.passes(plain_header(), make_frame(60)));
  CHECK(!machine.passes(segment_header(), make_frame(60)));
  // What was counted stays.
  CHECK(machine.device.counters().to_guest.frames == 2);
}

TEST_CASE("a broken ring stops its queue until the reset; frames before it are passed on") {
  Machine machine;
  SUBCASE("the guest's frames") {
    machine.submit(plain_header(), make_frame(60));
    machine.tx.raw_publish(0x7fff);
    machine.driver.kick(spec::kNetQueueTransmit);
    machine.run();
    CHECK(machine.driver.needs_reset());
    CHECK(machine.far_side.frames.size() == 1);
    CHECK(machine.far_side.batches.size() == 1);
    machine.driver.kick(spec::kNetQueueTransmit);
    machine.run();
    CHECK(machine.far_side.frames.size() == 1);
    machine.post();
    CHECK(machine.send(make_frame(60)));
  }
  SUBCASE("the guest's buffers, seen in the middle of a frame") {
    machine.post(100);
    machine.rx.raw_publish(0x7fff);
    machine.far_side.frame_hook = [&] { CHECK(!machine.send(make_frame(1000))); };
    CHECK(machine.passes(plain_header(), make_frame(60)));
    CHECK(machine.driver.needs_reset());
    CHECK(!machine.device.abilities().checksum);
    CHECK(machine.rx.used_index() == 0);
    machine.far_side.frame_hook = nullptr;
    machine.kick_rx();
    CHECK(machine.far_side.rooms == 0);
    CHECK(machine.passes(plain_header(), make_frame(60)));
  }
  machine.far_side.frame_hook = nullptr;
  machine.restart(kAllFeatures);
  CHECK(!machine.driver.needs_reset());
  CHECK(machine.passes(plain_header(), make_frame(60)));
  machine.post();
  CHECK(machine.send(make_frame(60)));
}

// --- Threads -----------------------------------------------------------------------------------

TEST_CASE(
    "V09: a driver that gives buffers one by one, on its own thread, gets every frame in order") {
  for (uint64_t features : {kAllFeatures, kDeviceFeatures}) {
    Machine machine(features);
    constexpr unsigned kFrames = 20'000;
    auto size_of = [](unsigned i) { return 20 + i * 37 % 400; };
    unsigned sent = 0;
    auto pump = [&] {
      while (sent < kFrames) {
        const Bytes frame = make_frame(size_of(sent), sent);
        if (!machine.send(frame, frame.size() > 60 ? segment_offload() : FrameOffload())) break;
        sent++;
      }
      machine.device.flush();
    };
    machine.far_side.room_hook = pump;
    std::thread thread([&] { REQUIRE(machine.loop->run()); });
    machine.loop->post(pump);
    std::mt19937 random(1);
    unsigned received = 0, wrong = 0;
    while (received < kFrames) {
      // No more than there is room for in the arena, and often none at all.
      for (size_t i = random() % 24; i > 0 && machine.posted.size() < 64; i--) {
        machine.post(100);
        // As a driver that honours the device's wish, but looks at it for each buffer.
        machine.driver.kick(spec::kNetQueueReceive);
      }
      while (std::optional<Machine::Arrived> arrived = machine.receive()) {
        wrong += arrived->bytes != make_frame(size_of(received), received);
        received++;
      }
      if (random() % 4 == 0) std::this_thread::yield();
    }
    machine.loop->stop();
    thread.join();
    CHECK(wrong == 0);
    CHECK(machine.device.counters().refused > 0);
  }
}

TEST_CASE("V12: resets while frames pass both ways on another thread leave nothing behind") {
  Machine machine;
  auto pump = [&] {
    for (int i = 0; i < 10 && machine.send(make_frame(1000), segment_offload()); i++) {
    }
    machine.device.flush();
  };
  machine.far_side.room_hook = pump;
  machine.far_side.batch_hook = [&] {
    machine.far_side.frames.clear();
    machine.far_side.batches.clear();
    pump();
  };
  std::thread thread([&] { REQUIRE(machine.loop->run()); });
  uint64_t late = 0;
  for (int i = 0; i < 300; i++) {
    for (unsigned j = 0; j < 20; j++) machine.submit(plain_header(), make_frame(100, j));
    for (int j = 0; j < 30; j++) machine.rx.writable(600).submit();
    machine.driver.kick(spec::kNetQueueTransmit);
    machine.driver.kick(spec::kNetQueueReceive);
    machine.loop->post(pump);
    // Now and then once it is at work, else at any moment.
    while (i % 3 == 0 && machine.tx.used_index() == 0) std::this_thread::yield();
    if (i % 7 == 0) {
      machine.transport->pause();
      REQUIRE(machine.transport->resume());
    }
    machine.driver.reset();
    const uint16_t rx_used = machine.rx.used_index(), tx_used = machine.tx.used_index();
    if (i % 16 == 0) std::this_thread::sleep_for(std::chrono::microseconds(100));
    late += rx_used != machine.rx.used_index() || tx_used != machine.tx.used_index();
    machine.rx.clear();
    machine.tx.clear();
    machine.driver.start(i % 2 == 0 ? kAllFeatures : kRingFeatures, {&machine.rx, &machine.tx});
  }
  machine.driver.reset();
  machine.loop->stop();
  thread.join();
  CHECK(late == 0);
  CHECK(machine.device.counters().from_guest.frames > 0);
}

}  // namespace
}  // namespace hutch::virtio::net
