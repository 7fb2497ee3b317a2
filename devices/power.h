// How a guest ends, and how it says where it is: a register for power-off and reset, the keyboard
// controller's reset line, a panic notifier, and the agent's boot mark.
#pragma once

#include <bitset>
#include <cstdint>
#include <mutex>
#include <span>

#include "bus/bus.h"

namespace hutch {

// What the guest has asked for or reported. Called on a vCPU thread, as often as the guest likes
// unless said otherwise; must not block and must not wait for vCPUs.
class PowerEvents {
 public:
  virtual ~PowerEvents() = default;
  virtual void power_off() = 0;
  virtual void reset() = 0;
  // The kernel has panicked; `crash_kernel`: another kernel of its own will look into it.
  virtual void panic(bool crash_kernel) = 0;
  // `value` (guest-controlled) was written for the first time.
  virtual void mark(uint8_t value) = 0;
};

// A 32-bit register for the device tree's "syscon-poweroff" and "syscon-reboot". Reads as zero;
// other values and widths are ignored.
class PowerRegister final : public BusDevice {
 public:
  static constexpr uint64_t kSize = 4;
  static constexpr uint32_t kPowerOff = 1;
  static constexpr uint32_t kReset = 2;

  explicit PowerRegister(PowerEvents& events) : events_(events) {}
  void read(uint64_t offset, std::span<uint8_t> data) override;
  void write(uint64_t offset, std::span<const uint8_t> data) override;

 private:
  PowerEvents& events_;
};

// The i8042 keyboard controller's ports 0x60 to 0x64, of which only the reset pulse works (command
// 0xfe to port 0x64). The status always says "output full, input empty": a kernel that probes
// drains a few bytes and finds no controller, and one that reboots does not wait.
class KeyboardController final : public BusDevice {
 public:
  static constexpr uint64_t kPort = 0x60;
  static constexpr uint64_t kSize = 5;

  explicit KeyboardController(PowerEvents& events) : events_(events) {}
  void read(uint64_t offset, std::span<uint8_t> data) override;
  void write(uint64_t offset, std::span<const uint8_t> data) override;

 private:
  PowerEvents& events_;
};

// The pvpanic device: one byte whose bits are events. Reading gives the bits that it understands.
// The guest kernel needs kernel-config/features/pvpanic.config.
class PanicNotifier final : public BusDevice {
 public:
  static constexpr uint64_t kSize = 1;
  static constexpr uint8_t kPanicked = 1;
  static constexpr uint8_t kCrashLoaded = 2;

  explicit PanicNotifier(PowerEvents& events) : events_(events) {}
  void read(uint64_t offset, std::span<uint8_t> data) override;
  void write(uint64_t offset, std::span<const uint8_t> data) override;

 private:
  PowerEvents& events_;
};

// The port on which the agent says how far the boot has come (protocol::agent::kBootMarkPort).
// Each value is reported once, so a guest that writes without end costs only its own time.
class BootMark final : public BusDevice {
 public:
  static constexpr uint64_t kSize = 1;

  explicit BootMark(PowerEvents& events) : events_(events) {}
  void read(uint64_t offset, std::span<uint8_t> data) override;
  void write(uint64_t offset, std::span<const uint8_t> data) override;

 private:
  PowerEvents& events_;
  std::mutex mutex_;
  std::bitset<256> seen_;  // under mutex_
};

}  // namespace hutch
