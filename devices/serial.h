// Serial: a 16550A UART, the guest's console.
//
// Takes 8 ports (or bytes of memory-mapped I/O) and one edge interrupt; the guest kernel needs
// kernel-config/features/serial.config and `console=ttyS0`. Output goes to a ConsoleSink at once;
// input waits in a bounded FIFO. Enough of the chip for a driver to recognise and use it.
//
// Left out: baud rate timing (the divisor is only stored), parity and line errors, break, modem
// status interrupts, FIFO trigger levels, DMA.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <mutex>
#include <span>

#include "bus/bus.h"
#include "bus/interrupt.h"
#include "snapshot/state.h"

namespace hutch {

// Where console output goes. Called on vCPU threads, one at a time per device; must not block.
class ConsoleSink {
 public:
  virtual ~ConsoleSink() = default;
  // `bytes` are guest-controlled.
  virtual void write(std::span<const uint8_t> bytes) = 0;
};

class Serial final : public BusDevice {
 public:
  static constexpr uint64_t kSize = 8;
  static constexpr size_t kMaxInput = 4096;

  // `interrupt` and `sink` outlive the device. `input_drained`, if any, is called on a vCPU thread
  // when the guest has read or cleared all input after receive() had to refuse some; it must not
  // block.
  Serial(Interrupt& interrupt, ConsoleSink& sink, std::function<void()> input_drained = nullptr);

  // BusDevice: any vCPU thread. A wider access is one of each byte, as on an ISA bus.
  void read(uint64_t offset, std::span<uint8_t> data) override;
  void write(uint64_t offset, std::span<const uint8_t> data) override;

  // Gives the guest input. Returns how many bytes had room, at most kMaxInput. Any thread.
  size_t receive(std::span<const uint8_t> bytes);

  // Its state while no vCPU runs, and the same in a new device. Errors: more input than there is
  // room for.
  snapshot::SavedSerial save();
  Result<void> restore(const snapshot::SavedSerial& saved);

 private:
  // Whether input that had no room has it now; says so once.
  bool take_drained();
  uint8_t read_register(uint64_t offset);
  void write_register(uint64_t offset, uint8_t value);
  uint8_t take_input();
  uint8_t identify_interrupt();
  void transmit(uint8_t value);
  void push_input(uint8_t value);
  void update_interrupt();
  uint8_t modem_status() const;

  Interrupt& interrupt_;
  ConsoleSink& sink_;
  const std::function<void()> input_drained_;

  std::mutex mutex_;
  // Under mutex_:
  std::array<uint8_t, kMaxInput> input_{};  // a ring of input_count_ bytes from input_start_ on
  size_t input_start_ = 0;
  size_t input_count_ = 0;
  bool input_refused_ = false;
  bool transmitter_empty_pending_ = false;  // the reason of a THRE interrupt, until it is seen
  uint8_t pending_ = 0;                     // reasons that have been signalled
  uint8_t interrupt_enable_ = 0;
  uint8_t fifo_control_ = 0;
  uint8_t line_control_ = 0;
  uint8_t modem_control_ = 0;
  uint8_t scratch_ = 0;
  std::array<uint8_t, 2> divisor_{12, 0};  // 9600 baud
};

}  // namespace hutch
