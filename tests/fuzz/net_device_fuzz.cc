// Fuzzes the network device between a guest that is mostly right and a far side that sends whatever
// it likes, also in the middle of a batch. Checked: what the far side gets are frames that the
// guest sent, whole and in order, with nothing beside them but what was negotiated and is true of
// the frame; what the guest gets is what was sent, whole and in order, in the buffers that it gave.
#include <algorithm>
#include <deque>
#include <memory>

#include "base/loop.h"
#include "tests/fuzz/fuzz_ring.h"
#include "virtio/net/net.h"

namespace hutch::fuzz {
namespace {

using namespace virtio::spec;
using virtio::Net;
using virtio::net::kHeaderSize;
using Segmentation = FrameOffload::Segmentation;
using Bytes = std::vector<std::byte>;

constexpr uint16_t kMtu = 1500;
constexpr uint16_t kRingSize = 64;
constexpr size_t kMostPosted = 30;  // of at most two parts: more would wrap the descriptor table
constexpr size_t kMostQueued = 8;   // of at most eight parts, or in a table of their own
constexpr uint64_t kRingFeatures = kFeatureIndirectDescriptors | kFeatureEventIndex;
// What makes frames long: the same bytes over and over.
constexpr GuestRange kFiller{GuestAddress(0x40000), 4096};
constexpr std::byte kFillerByte{0x5a};

struct Machine;

class FarSide final : public FrameReceiver {
 public:
  explicit FarSide(Machine& machine) : machine_(machine) {}
  void on_frame(std::span<const std::byte> frame, const FrameOffload& offload) override;
  void on_batch_end() override;
  void on_room() override;

 private:
  Machine& machine_;
};

struct Machine {
  explicit Machine(Loop& shared_loop) : loop(shared_loop) { device.connect(far_side); }

  Loop& loop;
  FarSide far_side{*this};
  Net device{loop, {.mac = {2, 0, 0, 0, 0, 1}, .mtu = kMtu}};
  std::array<FuzzRing, 2> rings{FuzzRing(GuestAddress(0x10000), kRingSize),
                                FuzzRing(GuestAddress(0x20000), kRingSize)};
  FuzzQueues queues{device, rings};
  FuzzRing& rx = rings[kNetQueueReceive];
  FuzzRing& tx = rings[kNetQueueTransmit];

  FuzzInput* input = nullptr;
  uint64_t features = 0;
  // What the guest has sent, and whether each is right in every way.
  struct Queued {
    Bytes frame;
    bool must_pass = false;
  };
  std::deque<Queued> queued;
  uint16_t transmitted = 0;
  bool is_kicked = false;
  // What the guest has posted and not got back, and what was sent to it and not found.
  std::deque<std::vector<GuestRange>> posted;
  std::deque<Bytes> sent;
  uint16_t used = 0;  // of the receive queue, seen
  bool is_waiting = false;
  uint8_t next_byte = 1;

  bool has(uint64_t feature) const { return (features & feature) != 0; }
};

uint64_t frames_written(const Machine& machine) {
  return machine.device.counters().to_guest.frames;
}

// --- The far side ------------------------------------------------------------------------------

void FarSide::on_frame(std::span<const std::byte> frame, const FrameOffload& offload) {
  FUZZ_CHECK(frame.size() >= 14 && frame.size() <= kMaxFrame);
  FUZZ_CHECK(!offload.checked);
  auto at = [&](size_t index) { return std::to_integer<unsigned>(frame[index]); };
  if (offload.needs_checksum) {
    FUZZ_CHECK(machine_.has(kNetFeatureChecksum));
    FUZZ_CHECK(offload.checksum_start >= 14);
    FUZZ_CHECK(size_t{offload.checksum_start} + offload.checksum_offset + 2 <= frame.size());
  } else {
    FUZZ_CHECK(offload.checksum_start == 0 && offload.checksum_offset == 0);
  }
  if (offload.segmentation == Segmentation::kNone) {
    FUZZ_CHECK(offload.header_size == 0 && offload.segment_size == 0);
    FUZZ_CHECK(!machine_.has(kNetFeatureMtu) || frame.size() <= 14 + kMtu);
  } else {
    const bool is_ip4 = offload.segmentation == Segmentation::kTcp4;
    FUZZ_CHECK(machine_.has(is_ip4 ? kNetFeatureHostTcp4 : kNetFeatureHostTcp6));
    FUZZ_CHECK(offload.needs_checksum && offload.segment_size > 0);
    // As whoever reads the frame finds it.
    FUZZ_CHECK((at(12) << 8 | at(13)) == (is_ip4 ? 0x0800 : 0x86dd));
    const size_t tcp = is_ip4 ? 14 + (at(14) & 0xf) * 4 : 54;
    FUZZ_CHECK(offload.checksum_start == tcp && offload.checksum_offset == 16);
    FUZZ_CHECK(offload.header_size == tcp + (at(tcp + 12) >> 4) * 4);
    FUZZ_CHECK(offload.header_size >= tcp + 20 && offload.header_size <= frame.size());
  }
  if (!machine_.tx.is_spoiled()) {
    // Those before it were dropped, for good reason.
    for (;; machine_.queued.pop_front()) {
      FUZZ_CHECK(!machine_.queued.empty());
      if (std::ranges::equal(machine_.queued.front().frame, frame)) break;
      FUZZ_CHECK(!machine_.queued.front().must_pass);
    }
    machine_.queued.pop_front();
  }
  if (machine_.input->rarely()) machine_.device.flush();
}

FrameOffload choose_offload(FuzzInput& input) {
  FrameOffload offload;
  const uint8_t choice = input.byte() % 8;
  offload.needs_checksum = choice >= 2 && choice < 6;
  offload.checked = choice == 1;
  if (offload.needs_checksum) {
    offload.checksum_start = 34;
    offload.checksum_offset = 16;
    if (choice >= 3) offload.segmentation = choice == 3 ? Segmentation::kTcp6 : Segmentation::kTcp4;
    offload.header_size = 54;
    offload.segment_size = 1460;
  }
  if (input.rarely()) {
    offload.checksum_start = input.take<uint16_t>();
    offload.checksum_offset = input.take<uint16_t>();
    offload.header_size = input.take<uint16_t>();
    offload.segment_size = input.take<uint16_t>();
    offload.needs_checksum = input.flip();
  }
  return offload;
}

void send(Machine& machine, FuzzInput& input) {
  static Bytes bytes(kMaxFrame + 100);
  size_t size = 14 + input.below(600);
  if (input.rarely()) size = input.below(static_cast<uint32_t>(bytes.size()));
  const std::span<std::byte> frame = std::span(bytes).first(size);
  // Each differs from the one before.
  for (size_t i = 0; i < size; i++) frame[i] = static_cast<std::byte>(machine.next_byte + i / 3);
  machine.next_byte++;
  const size_t cut = input.below(static_cast<uint32_t>(size) + 1);
  const std::array<std::span<const std::byte>, 2> pieces{frame.first(cut), frame.subspan(cut)};
  const FrameOffload offload = choose_offload(input);
  const uint64_t before = frames_written(machine);
  const bool is_taken = machine.device.send(pieces, offload);
  if (frames_written(machine) != before) {
    FUZZ_CHECK(is_taken && size >= 14 && size <= kMaxFrame);
    FUZZ_CHECK(machine.has(kNetFeatureGuestChecksum) ||
               !(offload.needs_checksum || offload.checked));
    machine.sent.emplace_back(frame.begin(), frame.end());
  }
  machine.is_waiting |= !is_taken;
}

void FarSide::on_batch_end() {
  if (machine_.input->flip()) return;
  send(machine_, *machine_.input);
  machine_.device.flush();
}

void FarSide::on_room() {
  FUZZ_CHECK(machine_.is_waiting);
  machine_.is_waiting = false;
  send(machine_, *machine_.input);
}

// --- The guest ---------------------------------------------------------------------------------

// `number` keeps two frames of one run from being alike.
Bytes choose_frame(FuzzInput& input, bool is_ip4, uint16_t number) {
  Bytes frame(14 + input.below(300));
  const auto seed = input.byte();
  for (size_t i = 0; i < frame.size(); i++) frame[i] = static_cast<std::byte>(seed + i);
  auto put = [&](size_t where, unsigned value) {
    if (where < frame.size()) frame[where] = static_cast<std::byte>(value);
  };
  put(0, number);
  put(12, is_ip4 ? 0x08 : 0x86);
  put(13, is_ip4 ? 0x00 : 0xdd);
  put(14, is_ip4 ? 0x45 : 0x60);
  put(is_ip4 ? 23 : 20, 6);
  put(is_ip4 ? 46 : 66, 0x50);
  if (input.rarely()) put(1 + input.below(80), input.byte());
  if (input.rarely()) frame.resize(input.below(30));
  return frame;
}

NetHeader choose_header(FuzzInput& input, bool is_ip4, bool& is_plain) {
  NetHeader header{};
  const uint8_t kind = input.byte() % 4;
  is_plain = kind == 0;
  const uint16_t tcp = is_ip4 ? 34 : 54;
  if (kind != 0) {
    header.flags = kNetNeedsChecksum;
    header.checksum_start = tcp;
    header.checksum_offset = 16;
  }
  if (kind >= 2) {
    header.segmentation = is_ip4 ? kNetSegmentationTcp4 : kNetSegmentationTcp6;
    header.header_length = static_cast<uint16_t>(tcp + 20);
    header.segment_size = 1460;
  }
  if (!input.rarely()) return header;
  is_plain = false;
  switch (input.below(6)) {
    case 0:
      header.flags = input.byte();
      break;
    case 1:
      header.segmentation = input.byte();
      break;
    case 2:
      header.header_length = input.take<uint16_t>();
      break;
    case 3:
      header.segment_size = input.take<uint16_t>();
      break;
    case 4:
      header.checksum_start = input.take<uint16_t>();
      break;
    default:
      header.checksum_offset = input.take<uint16_t>();
  }
  return header;
}

void run(Machine& machine) {
  FUZZ_CHECK(machine.loop.run_once(0));
  if (!machine.is_kicked) return;
  machine.is_kicked = false;
  if (machine.tx.is_spoiled() || machine.queues.is_broken()) return;
  // A turn is bounded; what waits behind it has the next ones.
  for (int turn = 0; turn < 3 && machine.tx.used_index() != machine.transmitted; turn++)
    FUZZ_CHECK(machine.loop.run_once(0));
  if (machine.queues.is_broken()) return;  // the other queue, by an answer
  FUZZ_CHECK(machine.tx.used_index() == machine.transmitted);
  for (const Machine::Queued& left : machine.queued) FUZZ_CHECK(!left.must_pass);
  machine.queued.clear();
}

void kick_transmit(Machine& machine) {
  machine.queues.kick(kNetQueueTransmit);
  machine.is_kicked = true;
}

void transmit(Machine& machine, FuzzInput& input) {
  if (machine.queued.size() >= kMostQueued) {
    kick_transmit(machine);
    run(machine);
    if (machine.queues.is_broken()) return;
  }
  const bool is_ip4 = !input.rarely();
  bool is_plain = false;
  const NetHeader header = choose_header(input, is_ip4, is_plain);
  const Bytes frame = choose_frame(input, is_ip4, machine.transmitted);
  Bytes all(kHeaderSize);
  std::memcpy(all.data(), &header, sizeof header);
  all.insert(all.end(), frame.begin(), frame.end());
  // Less than a header, now and then.
  if (input.rarely()) all.resize(input.below(kHeaderSize));
  std::vector<FuzzRing::Buffer> buffers;
  const GuestRange placed = machine.tx.place(all);
  const uint64_t cut = input.rarely() ? input.below(static_cast<uint32_t>(all.size()) + 1) : 0;
  buffers.push_back({{placed.start, cut}, false});
  buffers.push_back({{GuestAddress(placed.start.value() + cut), placed.size - cut}, false});
  if (input.rarely()) {
    is_plain = false;
    for (uint32_t i = input.below(20); i > 0; i--) {
      buffers.push_back({kFiller, false});
      all.insert(all.end(), kFiller.size, kFillerByte);
    }
  }
  machine.tx.submit(input, buffers);
  if (all.size() < kHeaderSize + 14) is_plain = false;
  all.erase(all.begin(), all.begin() + static_cast<ptrdiff_t>(std::min(kHeaderSize, all.size())));
  machine.queued.push_back({std::move(all), is_plain});
  machine.transmitted++;
  if (!input.rarely()) kick_transmit(machine);
}

void post(Machine& machine, FuzzInput& input) {
  if (machine.posted.size() >= kMostPosted) return;
  const uint64_t size = input.rarely() ? 1 + input.below(40) : 100 + input.below(900);
  const GuestAddress start = machine.rx.allocate(size);
  const uint64_t cut = input.rarely() ? input.below(static_cast<uint32_t>(size)) : 0;
  std::vector<GuestRange> ranges;
  if (cut > 0) ranges.push_back({start, cut});
  ranges.push_back({GuestAddress(start.value() + cut), size - cut});
  std::vector<FuzzRing::Buffer> buffers;
  for (const GuestRange& range : ranges) buffers.push_back({range, true});
  machine.rx.submit(input, buffers);
  machine.posted.push_back(std::move(ranges));
  if (input.flip()) machine.queues.kick(kNetQueueReceive);
  if (input.rarely()) machine.rx.set_event(input.take<uint16_t>());
}

Bytes take_buffer(Machine& machine) {
  const GuestAddress entry(machine.rx.layout().used.value() + 4 +
                           8ull * (machine.used % kRingSize));
  const uint32_t length = memory().read<UsedEntry>(entry).value().length;
  machine.used++;
  FUZZ_CHECK(!machine.posted.empty());
  Bytes bytes;
  for (const GuestRange& range : machine.posted.front()) {
    const size_t before = bytes.size();
    bytes.resize(before + range.size);
    FUZZ_CHECK(memory().read_bytes(range.start, std::span(bytes).subspan(before)));
  }
  machine.posted.pop_front();
  FUZZ_CHECK(length <= bytes.size());
  bytes.resize(length);
  return bytes;
}

// Takes what the guest has been shown.
void receive(Machine& machine) {
  if (machine.rx.is_spoiled()) return;
  const uint16_t shown = machine.rx.used_index();
  while (machine.used != shown) {
    Bytes bytes = take_buffer(machine);
    FUZZ_CHECK(bytes.size() >= kHeaderSize);
    NetHeader header;
    std::memcpy(&header, bytes.data(), sizeof header);
    FUZZ_CHECK(header.buffer_count == 1 || machine.has(kNetFeatureMergeableBuffers));
    for (uint16_t i = 1; i < header.buffer_count; i++) {
      FUZZ_CHECK(machine.used != shown);
      const Bytes more = take_buffer(machine);
      bytes.insert(bytes.end(), more.begin(), more.end());
    }
    const auto frame = std::span<const std::byte>(bytes).subspan(kHeaderSize);
    FUZZ_CHECK(!machine.sent.empty() && std::ranges::equal(machine.sent.front(), frame));
    machine.sent.pop_front();
    if ((header.flags & kNetNeedsChecksum) != 0)
      FUZZ_CHECK(size_t{header.checksum_start} + header.checksum_offset + 2 <= frame.size());
    if (header.segmentation == kNetSegmentationNone) {
      FUZZ_CHECK(frame.size() <= 14 + kMtu);
    } else {
      FUZZ_CHECK(machine.has(header.segmentation == kNetSegmentationTcp4 ? kNetFeatureGuestTcp4
                                                                         : kNetFeatureGuestTcp6));
      FUZZ_CHECK(header.header_length <= frame.size() && header.segment_size > 0);
    }
  }
}

// The same, after the device has been told to show all: there is nothing that it keeps.
void receive_all(Machine& machine) {
  receive(machine);
  if (machine.rx.is_spoiled() || machine.queues.is_broken()) return;
  FUZZ_CHECK(machine.sent.empty());
}

// Stops and starts the queues in the middle of what they do; nothing is lost.
void pause(Machine& machine) {
  machine.queues.pause();
  receive_all(machine);
  machine.queues.resume(machine.features);
}

}  // namespace
}  // namespace hutch::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace hutch;
  using namespace hutch::fuzz;
  static Loop* const kLoop = Loop::create().value().release();
  Machine machine(*kLoop);
  FuzzInput input(data, size);
  machine.input = &input;
  const uint64_t offered = machine.device.traits().features | kRingFeatures | kFeatureVersion1;
  machine.features = offered;
  if (input.rarely()) machine.features &= input.take<uint32_t>() | kFeatureVersion1;
  machine.queues.start(machine.features);
  const std::vector<std::byte> filler(kFiller.size, kFillerByte);
  FUZZ_CHECK(memory().write_bytes(kFiller.start, filler));
  for (int step = 0; step < 60 && !input.is_empty() && !machine.queues.is_broken(); step++) {
    switch (input.below(8)) {
      case 0:
      case 1:
        transmit(machine, input);
        break;
      case 2:
      case 3:
        post(machine, input);
        break;
      case 4:
        send(machine, input);
        break;
      case 5:
        machine.device.flush();
        receive_all(machine);
        break;
      case 6:
        run(machine);
        break;
      default:
        if (input.rarely()) {
          pause(machine);
        } else {
          send(machine, input);
        }
    }
  }
  run(machine);
  machine.device.flush();
  receive_all(machine);
  machine.queues.stop();
  return 0;
}
