// A network device between a fake driver and a fake far side, for tests:
//
//   NetMachine machine;
//   CHECK(machine.passes(plain_header(), make_frame(60)));  // from the guest
//   machine.post();
//   CHECK(machine.send(make_frame(60)));                    // to the guest
//   machine.device.flush();
//   CHECK(machine.receive_bytes() == make_frame(60));
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "tests/guest_driver.h"
#include "virtio/mmio.h"
#include "virtio/net/net.h"

namespace hutch::testing {

namespace spec = virtio::spec;
using Segmentation = FrameOffload::Segmentation;
using Bytes = std::vector<std::byte>;

constexpr uint64_t kRingFeatures = spec::kFeatureEventIndex | spec::kFeatureIndirectDescriptors;
constexpr uint64_t kDeviceFeatures = spec::kNetFeatureChecksum | spec::kNetFeatureGuestChecksum |
                                     spec::kNetFeatureMtu | spec::kNetFeatureMac |
                                     spec::kNetFeatureGuestTcp4 | spec::kNetFeatureGuestTcp6 |
                                     spec::kNetFeatureHostTcp4 | spec::kNetFeatureHostTcp6 |
                                     spec::kNetFeatureMergeableBuffers | spec::kNetFeatureStatus;
constexpr uint64_t kAllFeatures = kRingFeatures | kDeviceFeatures;
constexpr uint16_t kTcp = 34;  // behind Ethernet and IPv4
constexpr uint32_t kRxBuffer = 2048;

// A frame of `size` bytes that differs from others, with TCP over IPv4 where it is long enough.
inline Bytes make_frame(size_t size, unsigned seed = 0) {
  Bytes frame(size);
  for (size_t i = 0; i < size; i++) frame[i] = static_cast<std::byte>((i * 7 + seed * 13) % 251);
  auto put = [&](size_t where, unsigned value) {
    if (where < size) frame[where] = static_cast<std::byte>(value);
  };
  put(12, 0x08);
  put(13, 0x00);
  put(14, 0x45);
  put(23, 6);
  put(kTcp + 12, 5 << 4);
  return frame;
}

inline spec::NetHeader plain_header() {
  return spec::NetHeader{};
}
// Of a large segment of TCP over IPv4.
inline spec::NetHeader segment_header() {
  return {.flags = spec::kNetNeedsChecksum,
          .segmentation = spec::kNetSegmentationTcp4,
          .header_length = uint16_t{kTcp + 20},
          .segment_size = uint16_t{1460},
          .checksum_start = kTcp,
          .checksum_offset = uint16_t{16},
          .buffer_count = uint16_t{0}};
}
inline FrameOffload segment_offload(Segmentation kind = Segmentation::kTcp4) {
  return {.needs_checksum = true,
          .checksum_start = kTcp,
          .checksum_offset = 16,
          .segmentation = kind,
          .header_size = kTcp + 20,
          .segment_size = 1460};
}

struct Frame {
  Bytes bytes;
  FrameOffload offload;
};

class FarSide final : public FrameReceiver {
 public:
  void on_frame(std::span<const std::byte> frame, const FrameOffload& offload) override {
    frames.push_back({{frame.begin(), frame.end()}, offload});
    if (frame_hook) frame_hook();
  }
  void on_batch_end() override {
    batches.push_back(frames.size());
    if (batch_hook) batch_hook();
  }
  void on_room() override {
    rooms++;
    if (room_hook) room_hook();
  }

  std::vector<Frame> frames;
  std::vector<size_t> batches;  // how many frames there were at the end of each
  int rooms = 0;
  std::function<void()> frame_hook, batch_hook, room_hook;
};

// The guest and the host of one device.
class NetMachine {
 public:
  explicit NetMachine(uint64_t features = kAllFeatures,
                      virtio::NetOptions options = {.mac = {2, 0, 0, 0, 0, 5}})
      : device(*loop, options),
        transport(virtio::MmioTransport::create("net", memory, device, interrupt).value()),
        driver(*transport) {
    device.connect(far_side);
    driver.start(features, {&rx, &tx});
    run();
  }

  void run() {
    for (int i = 0; i < 3; i++) REQUIRE(loop->run_once(0));
  }
  void restart(uint64_t features) {
    driver.reset();
    rx.clear();
    tx.clear();
    posted.clear();
    far_side.frames.clear();
    far_side.batches.clear();
    driver.start(features, {&rx, &tx});
    run();
  }

  // Guest to host.
  void submit(const spec::NetHeader& header, std::span<const std::byte> frame) {
    Bytes all = bytes_of(header);
    all.insert(all.end(), frame.begin(), frame.end());
    tx.readable(all).submit();
  }
  void transmit(const spec::NetHeader& header, std::span<const std::byte> frame) {
    submit(header, frame);
    kick_tx();
  }
  void kick_tx() {
    driver.kick(spec::kNetQueueTransmit);
    run();
    while (std::optional<GuestQueue::Used> used = tx.take_used()) CHECK(used->length == 0);
  }
  // Whether exactly this frame comes out at the far side.
  bool passes(const spec::NetHeader& header, std::span<const std::byte> frame) {
    const size_t before = far_side.frames.size();
    transmit(header, frame);
    return far_side.frames.size() == before + 1 &&
           std::ranges::equal(far_side.frames.back().bytes, frame);
  }
  uint64_t dropped_from(virtio::net::Drop reason) const {
    return device.counters().from_guest.dropped(reason);
  }
  uint64_t dropped_to(virtio::net::Drop reason) const {
    return device.counters().to_guest.dropped(reason);
  }

  // Host to guest.
  void post(uint64_t size = kRxBuffer, int count = 1) {
    for (int i = 0; i < count; i++) posted.push_back(rx.writable(size).submit());
  }
  void kick_rx() {
    driver.kick(spec::kNetQueueReceive);
    run();
  }
  bool send(std::span<const std::byte> frame, const FrameOffload& offload = {}) {
    return device.send(std::span(&frame, 1), offload);
  }

  struct Arrived {
    spec::NetHeader header{};
    Bytes bytes;
    size_t buffers = 0;
  };
  // The next frame that the guest finds, by the rules of its driver.
  std::optional<Arrived> receive() {
    Arrived arrived;
    size_t count = 1;
    for (; arrived.buffers < count; arrived.buffers++) {
      std::optional<GuestQueue::Used> used = rx.take_used();
      if (!used && arrived.buffers == 0) return std::nullopt;
      REQUIRE(used);  // all buffers of a frame are shown together
      GuestRequest request = posted.front();
      posted.pop_front();
      REQUIRE(used->head == request.head);
      Bytes part = rx.written(request);
      REQUIRE(used->length <= part.size());
      if (arrived.buffers == 0) {
        REQUIRE(used->length >= virtio::net::kHeaderSize);
        std::memcpy(&arrived.header, part.data(), virtio::net::kHeaderSize);
        count = arrived.header.buffer_count;
        REQUIRE(count >= 1);
      }
      // All but the last are full.
      if (arrived.buffers + 1 < count) CHECK(used->length == part.size());
      arrived.bytes.insert(arrived.bytes.end(), part.begin(), part.begin() + used->length);
    }
    arrived.bytes.erase(arrived.bytes.begin(), arrived.bytes.begin() + virtio::net::kHeaderSize);
    return arrived;
  }
  Bytes receive_bytes() { return receive().value_or(Arrived()).bytes; }

  GuestMemory memory = make_memory(32 * kMiB);
  std::unique_ptr<Loop> loop = Loop::create().value();
  FarSide far_side;
  virtio::Net device;
  FakeInterrupt interrupt;
  std::unique_ptr<virtio::MmioTransport> transport;
  MmioDriver driver;
  GuestQueue rx{memory, GuestAddress(0x100000), 256, 8 * kMiB};
  GuestQueue tx{memory, GuestAddress(0x1000000), 256, 8 * kMiB};
  std::deque<GuestRequest> posted;
};

}  // namespace hutch::testing
