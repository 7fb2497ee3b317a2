// Device: what a virtio device is, apart from its transport.
//
// A device is its traits, its configuration space, and queues that can be started and stopped.
// Stopping returns the queue's progress, starting takes it: pause, snapshot and reset need nothing
// more. A device knows neither KVM nor the transport: it gets a queue, an eventfd that becomes
// readable when the driver has notified, and an interrupt to raise.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "bus/interrupt.h"
#include "virtio/queue.h"

namespace hutch::virtio {

struct DeviceTraits {
  uint32_t device_id = 0;             // virtio 1.2 section 5
  uint64_t features = 0;              // offered; the transport adds VERSION_1 and the ring features
  std::vector<uint16_t> queue_sizes;  // the largest size of each queue, powers of two
  uint32_t config_size = 0;           // bytes of configuration space
};

// What a running queue needs from the world. The pointers outlive the queue's run.
struct QueueResources {
  Queue queue;                      // owned by the device until stop_queue
  const EventFd* notify = nullptr;  // the driver's notification makes it readable; device drains
  Interrupt* interrupt = nullptr;   // raise() after queue.should_interrupt(); sets ISR bit 0
  // Tells the transport that the driver broke the queue: DEVICE_NEEDS_RESET, once. Any thread;
  // takes no lock.
  std::function<void(const Error&)> broken;
};

class Device {
 public:
  virtual ~Device() = default;

  virtual DeviceTraits traits() const = 0;
  // Configuration space; `offset` + size is inside config_size. Any vCPU thread, under the
  // transport's lock. Writes to read-only fields are ignored.
  virtual void read_config(uint32_t offset, std::span<uint8_t> data) = 0;
  virtual void write_config(uint32_t offset, std::span<const uint8_t> data) = 0;

  // Starts queue `index` (below the number of queues, not running) with the negotiated features.
  // Called on a vCPU thread when the driver sets DRIVER_OK, under the transport's lock. An error
  // means that the host cannot run it.
  virtual Result<void> start_queue(uint16_t index, QueueResources resources, uint64_t features) = 0;
  // Stops queue `index` and returns its progress; nothing when it was not running. Returns only
  // when no request is in flight, and the device touches the queue and its memory no more.
  // Called on a vCPU thread under the transport's lock. Idempotent.
  virtual std::optional<QueueState> stop_queue(uint16_t index) = 0;
  // Back to the state of a new device; every queue has been stopped before.
  virtual void reset() = 0;
};

}  // namespace hutch::virtio
