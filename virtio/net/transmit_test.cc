// What the guest sends: limits (V20, B22), lies (B27), and frames that change under way (V02, B26).
#include <doctest/doctest.h>

#include <atomic>
#include <random>
#include <thread>

#include "tests/net_machine.h"

namespace hutch::virtio::net {
namespace {

using namespace testing;
using Machine = NetMachine;

TEST_CASE("a frame of the guest reaches the far side, and its buffers come back") {
  Machine machine;
  const Bytes frame = make_frame(60);
  GuestRequest request = machine.tx.readable(bytes_of(plain_header())).readable(frame).submit();
  machine.driver.kick(spec::kNetQueueTransmit);
  machine.run();
  REQUIRE(machine.far_side.frames.size() == 1);
  CHECK(machine.far_side.frames[0].bytes == frame);
  CHECK(!machine.far_side.frames[0].offload.needs_checksum);
  CHECK(machine.far_side.batches == std::vector<size_t>{1});
  CHECK(machine.tx.take_used()->head == request.head);
  CHECK(machine.device.counters().from_guest.frames == 1);
  CHECK(machine.device.counters().from_guest.bytes == 60);
}

TEST_CASE("frames may be cut into buffers anywhere") {
  Machine machine;
  std::mt19937 random(1);
  for (int round = 0; round < 300; round++) {
    const Bytes frame = make_frame(14 + random() % 1500, static_cast<unsigned>(round));
    Bytes all = bytes_of(plain_header());
    all.insert(all.end(), frame.begin(), frame.end());
    RequestBuilder builder = machine.tx.request();
    const size_t most = round % 2 == 0 ? 12 : 400;
    for (std::span<const std::byte> left(all); !left.empty();) {
      // The header byte by byte, at first.
      const size_t part = round % 3 == 0 && left.size() > frame.size()
                              ? 1
                              : std::min<size_t>(left.size(), 1 + random() % most);
      std::move(builder).readable(left.first(part));
      left = left.subspan(part);
    }
    std::move(builder).indirect().submit();
    machine.kick_tx();
    REQUIRE(machine.far_side.frames.size() == static_cast<size_t>(round) + 1);
    CHECK(machine.far_side.frames.back().bytes == frame);
  }
}

TEST_CASE("what the guest leaves to be done is described to the far side") {
  Machine machine;
  REQUIRE(machine.passes(segment_header(), make_frame(40'000)));
  const FrameOffload& offload = machine.far_side.frames.back().offload;
  CHECK(offload.needs_checksum);
  CHECK(!offload.checked);
  CHECK(offload.checksum_start == kTcp);
  CHECK(offload.checksum_offset == 16);
  CHECK(offload.segmentation == Segmentation::kTcp4);
  CHECK(offload.header_size == kTcp + 20);
  CHECK(offload.segment_size == 1460);
}

TEST_CASE(
    "V20, B22: frames that are too short or too long are dropped by reason, and nothing else is") {
  Machine machine;
  SUBCASE("the longest and the shortest") {
    CHECK(machine.passes(plain_header(), make_frame(14)));
    CHECK(machine.passes(plain_header(), make_frame(1514)));
    CHECK(machine.passes(segment_header(), make_frame(kMaxFrame)));
  }
  SUBCASE("short") {
    for (size_t size = 0; size < 14; size++)
      CHECK(!machine.passes(plain_header(), make_frame(size)));
    CHECK(machine.dropped_from(Drop::kTooShort) == 14);
    // Not even a header, or nothing at all.
    for (size_t size : {1u, 11u}) machine.tx.readable(Bytes(size)).submit();
    machine.tx.writable(100).submit();
    machine.kick_tx();
    CHECK(machine.dropped_from(Drop::kTooShort) == 17);
  }
  SUBCASE("long") {
    CHECK(!machine.passes(plain_header(), make_frame(1515)));
    CHECK(!machine.passes(segment_header(), make_frame(kMaxFrame + 1)));
    CHECK(!machine.passes(segment_header(), make_frame(kMiB)));
    CHECK(machine.dropped_from(Drop::kTooLong) == 3);
    // Nearly 4 GiB, the same megabytes over and over.
    RequestBuilder builder = machine.tx.readable(bytes_of(segment_header()));
    for (int i = 0; i < 500; i++) std::move(builder).readable_at(GuestAddress(0), 8 * kMiB);
    std::move(builder).indirect().submit();
    machine.kick_tx();
    CHECK(machine.dropped_from(Drop::kTooLong) == 4);
  }
  const size_t passed = machine.far_side.frames.size();
  CHECK(machine.passes(plain_header(), make_frame(60)));
  CHECK(machine.far_side.frames.size() == passed + 1);
  CHECK(!machine.driver.needs_reset());
}

TEST_CASE("V20, B27: a header that lies costs its frame, and is counted") {
  Machine machine;
  const Bytes frame = make_frame(1000);
  auto lie = [&](auto change, Drop reason) {
    spec::NetHeader header = segment_header();
    change(header);
    const uint64_t before = machine.dropped_from(reason);
    const bool is_dropped =
        !machine.passes(header, frame) && machine.dropped_from(reason) == before + 1;
    // The one behind it is not touched.
    return is_dropped && machine.passes(segment_header(), frame);
  };
  using Header = spec::NetHeader;
  CHECK(lie([](Header& h) { h.segmentation = 3; }, Drop::kNotNegotiated));     // UDP
  CHECK(lie([](Header& h) { h.segmentation = 5; }, Drop::kNotNegotiated));     // UDP, the newer
  CHECK(lie([](Header& h) { h.segmentation = 0x81; }, Drop::kNotNegotiated));  // with ECN
  CHECK(lie([](Header& h) { h.segmentation = 4; }, Drop::kSegmentation));      // IPv6
  CHECK(lie([](Header& h) { h.flags = 0; }, Drop::kSegmentation));
  CHECK(lie([](Header& h) { h.segment_size = 0; }, Drop::kSegmentation));
  CHECK(lie([](Header& h) { h.header_length = 53; }, Drop::kSegmentation));
  CHECK(lie([](Header& h) { h.header_length = 1001; }, Drop::kSegmentation));
  CHECK(lie([](Header& h) { h.checksum_start = 38; }, Drop::kSegmentation));
  CHECK(lie([](Header& h) { h.checksum_offset = 6; }, Drop::kSegmentation));
  CHECK(lie([](Header& h) { h.checksum_start = 983; }, Drop::kChecksum));
  CHECK(lie([](Header& h) { h.checksum_start = 0; }, Drop::kChecksum));
  CHECK(lie([](Header& h) { h.checksum_offset = 0xfffe; }, Drop::kChecksum));
  CHECK(!machine.driver.needs_reset());
  CHECK(machine.device.counters().from_guest.frames == 13);
}

TEST_CASE(
    "all frames of a batch are passed on before its end is told, and the driver is told once") {
  Machine machine;
  const uint64_t before = machine.interrupt.count();
  for (unsigned i = 0; i < 20; i++) machine.submit(plain_header(), make_frame(60, i));
  machine.far_side.frame_hook = [&] { CHECK(machine.tx.used_index() == 0); };
  machine.driver.kick(spec::kNetQueueTransmit);
  REQUIRE(machine.loop->run_once(0));
  CHECK(machine.far_side.batches == std::vector<size_t>{20});
  CHECK(machine.tx.used_index() == 20);
  CHECK(machine.interrupt.count() == before + 1);
}

TEST_CASE("an end of nothing is not told, and a driver that wants no interrupt gets none") {
  Machine machine(kDeviceFeatures);
  machine.tx.set_no_interrupt(true);
  const uint64_t before = machine.interrupt.count();
  machine.kick_tx();
  machine.transmit(plain_header(), make_frame(13));
  CHECK(machine.far_side.batches.empty());
  machine.transmit(plain_header(), make_frame(14));
  CHECK(machine.far_side.batches.size() == 1);
  CHECK(machine.interrupt.count() == before);
}

TEST_CASE("a turn is bounded in frames and in bytes, and others have theirs in between") {
  Machine machine;
  size_t frames = 0, per_turn = 0;
  SUBCASE("small frames") {
    frames = 200;
    per_turn = FrameReader::kMaxFrames;
    for (size_t i = 0; i < frames; i++) machine.submit(plain_header(), make_frame(60));
  }
  SUBCASE("large frames") {
    frames = 20;
    per_turn = FrameReader::kMaxBytes / 65'000 + 1;
    for (size_t i = 0; i < frames; i++) machine.submit(segment_header(), make_frame(65'000));
  }
  SUBCASE("frames that are dropped") {
    per_turn = 0;
    for (size_t i = 0; i < 200; i++) machine.submit(plain_header(), make_frame(5));
  }
  std::vector<size_t> seen;
  EventFd other = EventFd::create().value();
  Watch watch =
      machine.loop
          ->watch(other.get(), EPOLLIN, [&](uint32_t) { seen.push_back(machine.tx.used_index()); })
          .value();
  other.signal();
  machine.driver.kick(spec::kNetQueueTransmit);
  while (machine.tx.used_index() < (frames > 0 ? frames : 200)) REQUIRE(machine.loop->run_once(0));
  CHECK(seen.size() >= 3);
  for (size_t i = 1; i < seen.size(); i++) CHECK(seen[i] - seen[i - 1] <= FrameReader::kMaxFrames);
  CHECK(machine.far_side.frames.size() == frames);
  for (size_t i = 0; i < machine.far_side.batches.size(); i++)
    CHECK(machine.far_side.batches[i] == std::min(frames, per_turn * (i + 1)));
}

TEST_CASE("the driver need not notify while its frames are being taken") {
  SUBCASE("flags") {
    Machine machine(kDeviceFeatures);
    machine.far_side.frame_hook = [&] { CHECK(machine.tx.used_flags() == spec::kUsedNoNotify); };
    machine.transmit(plain_header(), make_frame(60));
    CHECK(machine.far_side.frames.size() == 1);
    CHECK(machine.tx.used_flags() == 0);
  }
  SUBCASE("event indices") {
    Machine machine;
    CHECK(machine.tx.available_event() == 0);
    machine.far_side.frame_hook = [&] { CHECK(machine.tx.available_event() == 0); };
    for (int i = 0; i < 3; i++) machine.submit(plain_header(), make_frame(60));
    machine.kick_tx();
    CHECK(machine.far_side.frames.size() == 3);
    CHECK(machine.tx.available_event() == 3);
  }
  SUBCASE("a frame that comes meanwhile is taken without") {
    Machine machine;
    machine.far_side.frame_hook = [&] {
      if (machine.far_side.frames.size() < 5) machine.submit(plain_header(), make_frame(60));
    };
    machine.transmit(plain_header(), make_frame(60));
    CHECK(machine.far_side.frames.size() == 5);
    CHECK(machine.far_side.batches.size() == 1);
  }
}

// --- V02, B26 ----------------------------------------------------------------------------------

TEST_CASE("V02: each byte of a frame is read once") {
  Machine machine;
  for (size_t size : {60u, 1514u, 60'000u}) {
    const Bytes frame = make_frame(size);
    const spec::NetHeader header = size > 1514 ? segment_header() : plain_header();
    Bytes all = bytes_of(header);
    all.insert(all.end(), frame.begin(), frame.end());
    GuestAddress where(0x1900000);
    REQUIRE(machine.memory.write_bytes(where, all));
    std::move(machine.tx.request().readable_at(where, static_cast<uint32_t>(all.size()))).submit();
    ReadCounter reads({where, all.size()});
    machine.memory.set_observer(&reads);
    machine.driver.kick(spec::kNetQueueTransmit);
    machine.run();
    machine.memory.set_observer(nullptr);
    CHECK(reads.most() == 1);
    CHECK(reads.touched() == static_cast<int64_t>(all.size()));
    CHECK(machine.far_side.frames.back().bytes == frame);
  }
}

TEST_CASE("V02: of a frame that is too long nothing is read") {
  Machine machine;
  GuestAddress where(0x1900000);
  GuestRange range{where, kHeaderSize + kMaxFrame + 1};
  std::move(machine.tx.request().readable_at(where, static_cast<uint32_t>(range.size))).submit();
  ReadCounter reads(range);
  machine.memory.set_observer(&reads);
  machine.kick_tx();
  machine.memory.set_observer(nullptr);
  CHECK(reads.touched() == 0);
  CHECK(machine.dropped_from(Drop::kTooLong) == 1);
}

// Changes what decides: the kind of segment, where its checksum is, its IP version and the length
// of its TCP header; and the destination address. Without instrumentation, since the race is meant.
__attribute__((no_sanitize("thread"))) void flip_frame(std::byte* bytes, unsigned choice) {
  auto* at = reinterpret_cast<volatile uint8_t*>(bytes);
  const bool is_honest = (choice & 1) != 0;
  auto* address = reinterpret_cast<volatile uint8_t*>(bytes + kHeaderSize + 30);
  switch (choice / 2 % 5) {
    case 0:
      at[1] = is_honest ? 1 : 4;
      break;
    case 1:
      at[6] = is_honest ? 34 : 38;
      break;
    case 2:
      at[kHeaderSize + 14] = is_honest ? 0x45 : 0x46;
      break;
    case 3:
      at[kHeaderSize + kTcp + 12] = is_honest ? 0x50 : 0x60;
      break;
    default:
      for (int i = 0; i < 4; i++) address[i] = static_cast<uint8_t>(choice / 10);
  }
}

// Judges each frame by itself, and looks whether it changes while it has it.
class Judge final : public FrameReceiver {
 public:
  void on_frame(std::span<const std::byte> frame, const FrameOffload& offload) override {
    passed++;
    const Bytes first(frame.begin(), frame.end());
    auto at = [&](size_t index) { return std::to_integer<unsigned>(frame[index]); };
    const size_t tcp = 14 + (at(14) & 0xf) * 4;
    const size_t payload = tcp + (at(tcp + 12) >> 4) * 4;
    wrong += offload.segmentation != Segmentation::kTcp4 || at(14) >> 4 != 4 ||
             offload.checksum_start != tcp || offload.header_size != payload;
    // As if a policy took its time.
    if (passed % 64 == 0) std::this_thread::yield();
    wrong += !std::ranges::equal(first, frame);
  }
  void on_batch_end() override {}
  void on_room() override {}
  uint64_t passed = 0;
  uint64_t wrong = 0;
};

TEST_CASE("B26: what was judged is what is passed on, while another thread rewrites the frame") {
  Machine machine;
  Judge judge;
  machine.device.connect(judge);
  Bytes all = bytes_of(segment_header());
  const Bytes frame = make_frame(200);
  all.insert(all.end(), frame.begin(), frame.end());
  // Room for a header that a longer TCP header would need.
  all[2] = std::byte{150};
  GuestAddress where(0x1900000);
  REQUIRE(machine.memory.write_bytes(where, all));
  auto* host = static_cast<std::byte*>(machine.memory.view({where, all.size()})->iov_base);
  std::atomic<bool> stop{false};
  std::thread flipper([&] {
    for (unsigned i = 0; !stop.load(std::memory_order_relaxed); i++)
      flip_frame(host, i * 7 + i / 3);
  });
  uint64_t frames = 0;
  // On a busy host the other thread may not run for long: until it has been seen at work.
  auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (frames < 100'000 || ((judge.passed == 0 || judge.passed == frames) &&
                              std::chrono::steady_clock::now() < deadline)) {
    for (int i = 0; i < 50; i++, frames++)
      std::move(machine.tx.request().readable_at(where, static_cast<uint32_t>(all.size())))
          .submit();
    machine.driver.kick(spec::kNetQueueTransmit);
    REQUIRE(machine.loop->run_once(0));
    while (machine.tx.take_used()) {
    }
    if (frames % 1000 == 0) std::this_thread::yield();
  }
  stop = true;
  flipper.join();
  CHECK(judge.wrong == 0);
  CHECK(judge.passed > 0);
  CHECK(judge.passed < frames);
  CHECK(judge.passed + machine.dropped_from(Drop::kSegmentation) == frames);
}

}  // namespace
}  // namespace hutch::virtio::net
