// Net: the network device (virtio 1.2 section 5.1), one receive and one transmit queue. What is at
// the other end of its cable is a FrameReceiver.
//
// The guest kernel needs kernel-config/features/virtio-net.config and inet.config. All that comes
// from the guest is hostile: a frame whose header lies is dropped and counted, a broken ring stops
// its queue. The device holds no frames: one that finds no room in the guest stays with its sender,
// who is called when there is some.
//
// Left out: the control queue and all that needs it, several queue pairs, hashes, UDP segmentation,
// TCP segmentation with ECN.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>

#include "base/frames.h"
#include "base/loop.h"
#include "virtio/device.h"
#include "virtio/net/counters.h"
#include "virtio/net/frame_reader.h"
#include "virtio/net/frame_writer.h"

namespace hutch::virtio {

struct NetOptions {
  std::array<uint8_t, 6> mac{};  // the guest's; unicast
  uint16_t mtu = 1500;           // bytes of IP packet, announced to the driver; at least 68
};

class Net final : public Device, public FrameSender {
 public:
  // Everything happens on the loop's thread.
  Net(Loop& loop, const NetOptions& options);
  // The queues must have been stopped.
  ~Net() override;
  Net(const Net&) = delete;
  Net& operator=(const Net&) = delete;

  // Where the guest's frames go. Once, before a driver starts the device; the receiver outlives the
  // run of the queues.
  void connect(FrameReceiver& far_side) { far_side_ = &far_side; }
  // Since the device was made. On the loop's thread.
  const net::Counters& counters() const { return counters_; }

  DeviceTraits traits() const override;
  void read_config(uint32_t offset, std::span<uint8_t> data) override;
  void write_config(uint32_t, std::span<const uint8_t>) override {}
  Result<void> start_queue(uint16_t index, QueueResources resources, uint64_t features) override;
  std::optional<QueueState> stop_queue(uint16_t index) override;
  void reset() override {}

  // FrameSender. While no driver runs the receive queue, the device is able to do nothing and there
  // is no room; on_room() follows when one does.
  Abilities abilities() const override;
  bool send(std::span<const std::span<const std::byte>> pieces,
            const FrameOffload& offload) override;
  void flush() override;

 private:
  struct Running {
    QueueResources resources;
    net::Agreement agreement;
    Watch watch;
    bool is_broken = false;
    bool is_interrupt_due = false;
  };

  Result<void> start(uint16_t index, QueueResources resources, uint64_t features);
  void transmit_notified();
  void receive_notified();
  Result<bool> put(Running& running, const spec::NetHeader& header,
                   std::span<const std::span<const std::byte>> pieces, size_t size);
  void publish(Running* running);
  void interrupt();
  void stop_broken(Running& running, const Error& error);

  Loop& loop_;
  const NetOptions options_;
  FrameReceiver* far_side_ = nullptr;
  // Belong to the loop:
  std::unique_ptr<Running> receive_;
  std::unique_ptr<Running> transmit_;
  net::FrameReader reader_;
  net::FrameWriter writer_;
  net::Counters counters_;
  bool is_room_wanted_ = false;  // the far side waits for on_room()
  bool in_turn_ = false;         // interrupts are raised together at its end
};

}  // namespace hutch::virtio
