// MmioTransport: the virtio-mmio transport, version 2 (virtio 1.2 section 4.2), for one device.
//
// Everything the guest writes here is guest-controlled. The driver configures queues between
// FEATURES_OK and DRIVER_OK; from then on until a reset the configuration is frozen. A driver that
// breaks a queue gets DEVICE_NEEDS_RESET and a configuration interrupt, and one log line.
//
// What the guest can read lies in a page, which is kept true at every change. A guest that has that
// page mapped, for reading only, leaves itself only when it writes.
//
// Left out: shared memory regions, RING_RESET, NOTIFICATION_DATA, legacy interfaces.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "base/fd.h"
#include "base/log.h"
#include "base/result.h"
#include "bus/bus.h"
#include "bus/interrupt.h"
#include "memory/guest_memory.h"
#include "snapshot/state.h"
#include "virtio/device.h"

namespace hutch::virtio {

class MmioTransport final : public BusDevice {
 public:
  // Bytes of address space: registers, then the device's configuration.
  static constexpr uint64_t kSize = 0x1000;

  // `memory`, `device`, `interrupt` and `page` outlive the transport. `page`: kSize bytes at a
  // multiple of 4, which nobody else writes to; empty: one of its own. `name` is for messages.
  // Errors: no descriptors left.
  static Result<std::unique_ptr<MmioTransport>> create(const char* name, const GuestMemory& memory,
                                                       Device& device, Interrupt& interrupt,
                                                       std::span<std::byte> page = {});
  // Stops the device.
  ~MmioTransport() override;
  MmioTransport(const MmioTransport&) = delete;
  MmioTransport& operator=(const MmioTransport&) = delete;

  // One per queue: signalling it is the driver's notification of that queue. To be bound to a
  // 32-bit write of the queue's index at offset spec::kRegisterQueueNotify; a write that arrives
  // as an access does the same.
  std::span<const EventFd> notify_events() const { return notify_events_; }

  // BusDevice: any vCPU thread. Reads come here where the page is not mapped.
  void read(uint64_t offset, std::span<uint8_t> data) override;
  void write(uint64_t offset, std::span<const uint8_t> data) override;

  // Tells the driver that the device's configuration space has changed. Any thread, but not while
  // the device changes it further.
  void configuration_changed();

  // Stops the running queues, keeping their progress, until resume(); for when the vCPUs stand
  // still. A reset in between forgets it. Errors of resume(): as Device::start_queue.
  void pause();
  Result<void> resume();

  // Its state between pause() and resume(), and the same in a new transport before resume(), which
  // then starts the queues and interrupts the driver: what it was told may have got lost. What is
  // saved is not trusted. Errors: a state that no driver could have brought this device into.
  snapshot::SavedTransport save();
  Result<void> restore(const snapshot::SavedTransport& saved);

 private:
  struct QueueConfig {
    QueueLayout layout;       // guest-controlled
    bool is_ready = false;    // the driver said so
    bool is_running = false;  // the device has it
    std::optional<QueueState> paused;
  };
  class UsedBufferInterrupt final : public Interrupt {
   public:
    explicit UsedBufferInterrupt(MmioTransport& transport) : transport_(transport) {}
    void raise() override { transport_.raise(spec::kInterruptUsedBuffer); }

   private:
    MmioTransport& transport_;
  };

  MmioTransport(const char* name, const GuestMemory& memory, Device& device, Interrupt& interrupt,
                std::vector<EventFd> notify_events, std::span<std::byte> page);
  // A register as the guest reads it.
  std::atomic_ref<uint32_t> shown(uint64_t offset) const;
  void show(uint64_t offset, uint32_t value) const;
  void show_constants();
  void show_changes();
  void show_config();
  void write_register(uint64_t offset, uint32_t value);
  void write_config(uint64_t offset, std::span<const uint8_t> data);
  QueueConfig* selected_queue();
  QueueConfig* configurable_queue();
  void write_queue_address(GuestAddress QueueLayout::*address, bool high, uint32_t value);
  void write_driver_features(uint32_t value);
  void write_status(uint32_t value);
  bool features_acceptable() const;
  Result<void> check_status(uint32_t status) const;
  void start_queues();
  Result<void> start_queue(uint16_t index, QueueState state);
  void stop_queues();
  void reset();
  void raise(uint32_t interrupt_status);
  void broken(const Error& error);

  const char* const name_;
  const GuestMemory& memory_;
  Device& device_;
  Interrupt& interrupt_;
  UsedBufferInterrupt used_buffer_interrupt_{*this};
  const DeviceTraits traits_;
  const uint64_t offered_features_;
  const std::vector<EventFd> notify_events_;

  std::vector<uint32_t> own_page_;  // empty: it was given one
  const std::span<std::byte> page_;
  // In the page alone are the interrupt status and the configuration's generation. These and this
  // one change without the lock, because the loop that runs a queue sets them while a vCPU thread
  // that holds the lock may wait for that loop.
  std::atomic<bool> needs_reset_{false};
  RateLimit complaints_{4};

  std::mutex mutex_;
  // Under mutex_:
  uint32_t status_ = 0;  // without DEVICE_NEEDS_RESET
  uint32_t device_features_select_ = 0;
  uint32_t driver_features_select_ = 0;
  uint64_t driver_features_ = 0;
  bool unknown_features_ = false;  // the driver accepted bits from 64 on
  bool was_restored_ = false;      // and not resumed yet
  uint32_t queue_select_ = 0;
  std::vector<QueueConfig> queues_;
};

}  // namespace hutch::virtio
