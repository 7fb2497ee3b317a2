// What the guest is sent: pieces, buffers, room and the want of it (V20).
#include <doctest/doctest.h>

#include <array>
#include <utility>

#include "tests/net_machine.h"

namespace hutch::virtio::net {
namespace {

using namespace testing;
using Machine = NetMachine;

TEST_CASE("a frame of pieces reaches the guest as one, with its header, when it is flushed") {
  Machine machine;
  machine.post();
  const Bytes frame = make_frame(700);
  const std::span<const std::byte> all(frame);
  const std::array<std::span<const std::byte>, 4> pieces{all.first(54), all.subspan(54, 0),
                                                         all.subspan(54, 600), all.subspan(654)};
  const uint64_t before = machine.interrupt.count();
  CHECK(machine.device.send(pieces, segment_offload()));
  CHECK(machine.rx.used_index() == 0);
  CHECK(machine.interrupt.count() == before);
  machine.device.flush();
  CHECK(machine.interrupt.count() == before + 1);
  const Machine::Arrived arrived = machine.receive().value();
  CHECK(arrived.bytes == frame);
  CHECK(arrived.buffers == 1);
  CHECK(arrived.header.flags == spec::kNetNeedsChecksum);
  CHECK(arrived.header.segmentation == spec::kNetSegmentationTcp4);
  CHECK(arrived.header.header_length == kTcp + 20);
  CHECK(arrived.header.segment_size == 1460);
  CHECK(arrived.header.checksum_start == kTcp);
  CHECK(arrived.header.checksum_offset == 16);
  CHECK(machine.device.counters().to_guest.frames == 1);
  CHECK(machine.device.counters().to_guest.bytes == 700);
  // Nothing new, no interrupt.
  machine.device.flush();
  CHECK(machine.interrupt.count() == before + 1);
}

TEST_CASE("a frame is spread over as many buffers as it needs, and no more") {
  Machine machine;
  // Each number of bytes around the edges of buffers of 100, the first of which also has the
  // header.
  for (size_t size = 60; size < 420; size++) {
    machine.post(100, 6);
    const Bytes frame = make_frame(size, static_cast<unsigned>(size));
    const std::span<const std::byte> all(frame);
    const std::array<std::span<const std::byte>, 3> pieces{all.first(20), all.subspan(20, 35),
                                                           all.subspan(55)};
    REQUIRE(machine.device.send(pieces, segment_offload()));
    machine.device.flush();
    const Machine::Arrived arrived = machine.receive().value();
    CHECK(arrived.bytes == frame);
    CHECK(arrived.buffers == (size + kHeaderSize + 99) / 100);
    CHECK(arrived.header.buffer_count == arrived.buffers);
    // The others are still there for the next one.
    while (!machine.posted.empty()) {
      REQUIRE(machine.send(make_frame(60)));
      machine.device.flush();
      CHECK(machine.receive().value().buffers == 1);
    }
  }
}

TEST_CASE("buffers of one frame differ in size and have several parts") {
  Machine machine;
  machine.posted.push_back(machine.rx.writable(12).submit());  // just the header
  machine.posted.push_back(machine.rx.writable(1).writable(2).writable(30).indirect().submit());
  machine.posted.push_back(machine.rx.writable(4096).submit());
  const Bytes frame = make_frame(1500);
  REQUIRE(machine.send(frame));
  machine.device.flush();
  const Machine::Arrived arrived = machine.receive().value();
  CHECK(arrived.bytes == frame);
  CHECK(arrived.buffers == 3);
}

TEST_CASE("the longest frame goes into small buffers") {
  Machine machine;
  machine.post(1536, 256);
  const Bytes frame = make_frame(kMaxFrame);
  for (int i = 0; i < 4; i++) {
    REQUIRE(machine.send(frame, segment_offload()));
    machine.device.flush();
    const Machine::Arrived arrived = machine.receive().value();
    CHECK(arrived.bytes == frame);
    CHECK(arrived.buffers == 43);
  }
}

TEST_CASE("many frames are shown together, in order, with one interrupt") {
  Machine machine;
  machine.post(1536, 100);
  const uint64_t before = machine.interrupt.count();
  for (unsigned i = 0; i < 50; i++)
    REQUIRE(machine.send(make_frame(100 + 40 * i, i), segment_offload()));
  CHECK(machine.rx.used_index() == 0);
  machine.device.flush();
  CHECK(machine.interrupt.count() == before + 1);
  for (unsigned i = 0; i < 50; i++) CHECK(machine.receive_bytes() == make_frame(100 + 40 * i, i));
  CHECK(!machine.receive());
}

TEST_CASE("without mergeable buffers a frame has one, and one that does not fit is dropped") {
  Machine machine(kAllFeatures & ~spec::kNetFeatureMergeableBuffers);
  machine.post(100);
  machine.post(100);
  CHECK(machine.send(make_frame(89)));
  machine.device.flush();
  CHECK(machine.dropped_to(Drop::kNoSuchRoom) == 1);
  CHECK(machine.rx.used_index() == 0);
  // The buffer is still good for one that fits.
  CHECK(machine.send(make_frame(88)));
  machine.device.flush();
  const Machine::Arrived arrived = machine.receive().value();
  CHECK(arrived.bytes == make_frame(88));
  CHECK(arrived.header.buffer_count == 1);
  // A chain of many parts is one buffer.
  machine.send(make_frame(60));
  machine.device.flush();
  CHECK(machine.receive());
  RequestBuilder builder = machine.rx.request();
  for (int i = 0; i < 17; i++) std::move(builder).writable(4096);
  machine.posted.push_back(std::move(builder).indirect().submit());
  CHECK(machine.send(make_frame(kMaxFrame), segment_offload()));
  machine.device.flush();
  CHECK(machine.receive_bytes() == make_frame(kMaxFrame));
}

TEST_CASE("a frame larger than all the buffers that the queue can have is dropped") {
  Machine machine;
  machine.post(64, 256);
  CHECK(machine.send(make_frame(256 * 64 - 12), segment_offload()));
  machine.device.flush();
  CHECK(machine.receive_bytes().size() == 256 * 64 - 12);
  machine.post(64, 256);
  CHECK(machine.send(make_frame(256 * 64 - 11), segment_offload()));
  CHECK(machine.dropped_to(Drop::kNoSuchRoom) == 1);
  CHECK(machine.send(make_frame(60)));
  machine.device.flush();
  CHECK(machine.receive_bytes() == make_frame(60));
}

TEST_CASE("V20: a receive buffer smaller than the header breaks the queue, and only that one") {
  for (uint64_t features : {kAllFeatures, kAllFeatures & ~spec::kNetFeatureMergeableBuffers}) {
    for (uint64_t size : {1ull, 11ull}) {
      Machine machine(features);
      machine.post(kRxBuffer);
      machine.post(size);
      CHECK(machine.send(make_frame(60)));
      CHECK(!machine.send(make_frame(60)));
      CHECK(machine.driver.needs_reset());
      CHECK(!machine.send(make_frame(60)));
      machine.device.flush();
      CHECK(machine.passes(plain_header(), make_frame(60)));
    }
    Machine machine(features);
    machine.rx.readable(Bytes(100)).submit();  // none at all
    CHECK(!machine.send(make_frame(60)));
    CHECK(machine.driver.needs_reset());
  }
}

TEST_CASE("a frame for which there is not enough room is not begun") {
  Machine machine;
  machine.post(1000, 3);
  const Bytes untouched(1000, std::byte{0xee});
  for (const GuestRequest& request : machine.posted)
    REQUIRE(machine.memory.write_bytes(request.writable[0].start, untouched));
  const Bytes frame = make_frame(3500);
  for (int i = 0; i < 5; i++) CHECK(!machine.send(frame, segment_offload()));
  machine.run();
  CHECK(machine.rx.used_index() == 0);
  for (const GuestRequest& request : machine.posted)
    CHECK(machine.rx.written(request) == untouched);
  CHECK(machine.device.counters().refused == 5);
  CHECK(machine.far_side.rooms == 0);
  // A smaller one may pass it by.
  CHECK(machine.send(make_frame(60)));
  machine.device.flush();
  CHECK(machine.receive_bytes() == make_frame(60));

  machine.post(1000, 2);
  machine.kick_rx();
  CHECK(machine.far_side.rooms == 1);
  CHECK(machine.send(frame, segment_offload()));
  machine.device.flush();
  CHECK(machine.receive_bytes() == frame);
}

TEST_CASE("V20: a guest without buffers is waited for, however long, and goes on") {
  Machine machine;
  const uint64_t before = machine.interrupt.count();
  for (int i = 0; i < 60'000; i++) {
    REQUIRE(!machine.send(make_frame(60)));
    if (i % 1000 == 0) machine.run();
  }
  CHECK(machine.far_side.rooms == 0);
  CHECK(machine.interrupt.count() == before);
  CHECK(machine.device.counters().refused == 60'000);
  CHECK(machine.device.counters().to_guest.frames == 0);
  machine.far_side.room_hook = [&] {
    CHECK(machine.send(make_frame(60)));
    CHECK(!machine.send(make_frame(61)));
    machine.device.flush();
  };
  for (int i = 1; i < 4; i++) {
    machine.post();
    machine.kick_rx();
    CHECK(machine.far_side.rooms == i);
    CHECK(machine.receive_bytes() == make_frame(60));
  }
  CHECK(!machine.driver.needs_reset());
}

TEST_CASE("a send without room shows the guest what it has, so that it makes some") {
  Machine machine;
  machine.post();
  const uint64_t before = machine.interrupt.count();
  CHECK(machine.send(make_frame(60)));
  CHECK(!machine.send(make_frame(60)));
  CHECK(machine.interrupt.count() == before + 1);
  CHECK(machine.receive_bytes() == make_frame(60));
}

TEST_CASE("the driver is asked to notify of buffers only while a frame waits for room") {
  SUBCASE("event indices") {
    Machine machine;
    machine.post(1000, 10);
    machine.kick_rx();
    CHECK(machine.rx.available_event() == 0);  // never asked: it stands where the ring began
    for (int i = 0; i < 7; i++) REQUIRE(machine.send(make_frame(60)));
    machine.device.flush();
    CHECK(machine.rx.available_event() == 0);
    CHECK(machine.far_side.rooms == 0);
    // Three are left, which are not enough: the one behind them is of interest.
    CHECK(!machine.send(make_frame(5000), segment_offload()));
    CHECK(machine.rx.available_event() == 10);
    machine.post(1000);
    machine.kick_rx();
    CHECK(machine.far_side.rooms == 1);
    CHECK(!machine.send(make_frame(5000), segment_offload()));
    CHECK(machine.rx.available_event() == 11);
    machine.post(1000, 5);
    machine.kick_rx();
    CHECK(machine.far_side.rooms == 2);
    CHECK(machine.send(make_frame(5000), segment_offload()));
    machine.post(1000, 5);
    machine.kick_rx();
    CHECK(machine.rx.available_event() == 11);
    CHECK(machine.far_side.rooms == 2);
  }
  SUBCASE("flags") {
    Machine machine(kDeviceFeatures);
    CHECK(machine.rx.used_flags() == spec::kUsedNoNotify);
    machine.post();
    machine.kick_rx();
    CHECK(machine.rx.used_flags() == spec::kUsedNoNotify);
    CHECK(machine.send(make_frame(60)));
    CHECK(machine.rx.used_flags() == spec::kUsedNoNotify);
    CHECK(!machine.send(make_frame(60)));
    CHECK(machine.rx.used_flags() == 0);
    machine.post();
    machine.kick_rx();
    CHECK(machine.far_side.rooms == 1);
    CHECK(machine.rx.used_flags() == spec::kUsedNoNotify);
  }
}

// Makes buffers available at the worst moment: when the device asks to be notified of them.
class QuickDriver final : public AccessObserver {
 public:
  QuickDriver(Machine& machine, int buffers) : machine_(machine), buffers_(buffers) {
    machine.memory.set_observer(this);
  }
  ~QuickDriver() override { machine_.memory.set_observer(nullptr); }
  void on_read(GuestRange) override {}
  void on_write(GuestRange range) override {
    const GuestAddress event(machine_.rx.layout().used.value() + 4 + 8ull * machine_.rx.size());
    if (range.start != event || std::exchange(is_busy_, true)) return;
    machine_.post(100, buffers_);
    times++;
    is_busy_ = false;
  }
  int times = 0;

 private:
  Machine& machine_;
  const int buffers_;
  bool is_busy_ = false;
};

TEST_CASE("buffers that come while the device asks for them are seen") {
  Machine machine;
  QuickDriver driver(machine, 10);
  CHECK(machine.send(make_frame(900), segment_offload()));
  CHECK(driver.times == 1);
  machine.device.flush();
  CHECK(machine.receive_bytes() == make_frame(900));
}

TEST_CASE("a driver that is always too late by one buffer does not keep the loop") {
  Machine machine;
  QuickDriver driver(machine, 1);
  CHECK(!machine.send(make_frame(5000), segment_offload()));
  CHECK(driver.times == 2);
  CHECK(machine.far_side.rooms == 0);
  // It has not been asked to notify of what it has given: the far side looks again by itself.
  machine.far_side.room_hook = [&] {
    if (machine.send(make_frame(5000), segment_offload())) machine.device.flush();
  };
  for (int i = 0; i < 100 && machine.rx.used_index() == 0; i++) REQUIRE(machine.loop->run_once(0));
  CHECK(machine.receive_bytes() == make_frame(5000));
  CHECK(machine.far_side.rooms > 10);
}

TEST_CASE("answers to a batch share its interrupt") {
  Machine machine;
  machine.post(kRxBuffer, 10);
  const uint64_t before = machine.interrupt.count();
  machine.far_side.frame_hook = [&] {
    CHECK(machine.send(make_frame(60)));
    machine.device.flush();
  };
  machine.far_side.batch_hook = machine.far_side.frame_hook;
  for (int i = 0; i < 4; i++) machine.submit(plain_header(), make_frame(60));
  machine.driver.kick(spec::kNetQueueTransmit);
  REQUIRE(machine.loop->run_once(0));
  CHECK(machine.interrupt.count() == before + 1);
  CHECK(machine.rx.used_index() == 5);
  CHECK(machine.tx.used_index() == 4);
}

TEST_CASE("what the guest cannot take is dropped and counted, and is no reason to wait") {
  Machine machine(kRingFeatures);
  machine.post();
  CHECK(machine.send(make_frame(13)));
  CHECK(machine.send(make_frame(1515)));
  CHECK(machine.send(make_frame(kMaxFrame + 1), segment_offload()));
  CHECK(machine.send(make_frame(60), segment_offload()));
  CHECK(machine.send(make_frame(60), {.checked = true}));
  CHECK(machine.dropped_to(Drop::kTooShort) == 1);
  CHECK(machine.dropped_to(Drop::kTooLong) == 2);
  CHECK(machine.dropped_to(Drop::kNotNegotiated) == 2);
  CHECK(machine.device.counters().refused == 0);
  machine.restart(kAllFeatures);
  machine.post();
  FrameOffload offload = segment_offload();
  offload.checksum_start = 1000;
  CHECK(machine.send(make_frame(60), offload));
  CHECK(machine.dropped_to(Drop::kChecksum) == 1);
  offload = segment_offload();
  offload.segment_size = 0;
  CHECK(machine.send(make_frame(60), offload));
  CHECK(machine.dropped_to(Drop::kSegmentation) == 1);
  machine.device.flush();
  CHECK(machine.rx.used_index() == 0);
}

}  // namespace
}  // namespace hutch::virtio::net
