#include "devices/serial.h"

#include <algorithm>
#include <utility>

namespace hutch {
namespace {

// Register offsets, with DLAB clear.
constexpr uint64_t kData = 0;                     // DLAB: divisor, low
constexpr uint64_t kInterruptEnable = 1;          // DLAB: divisor, high
constexpr uint64_t kInterruptIdentification = 2;  // written: FIFO control
constexpr uint64_t kLineControl = 3;
constexpr uint64_t kModemControl = 4;
constexpr uint64_t kLineStatus = 5;
constexpr uint64_t kModemStatus = 6;
constexpr uint64_t kScratch = 7;

constexpr uint8_t kEnableReceived = 0x01;
constexpr uint8_t kEnableTransmitterEmpty = 0x02;
constexpr uint8_t kInterruptEnableBits = 0x0f;

constexpr uint8_t kIdentifyNone = 0x01;
constexpr uint8_t kIdentifyTransmitterEmpty = 0x02;
constexpr uint8_t kIdentifyReceived = 0x04;
constexpr uint8_t kIdentifyFifosEnabled = 0xc0;

constexpr uint8_t kFifoEnable = 0x01;
constexpr uint8_t kFifoClearReceived = 0x02;
constexpr uint8_t kFifoControlBits = 0xc9;  // the clear bits are commands

constexpr uint8_t kLineDivisorLatch = 0x80;

constexpr uint8_t kModemDataTerminalReady = 0x01;
constexpr uint8_t kModemRequestToSend = 0x02;
constexpr uint8_t kModemOut1 = 0x04;
constexpr uint8_t kModemOut2 = 0x08;
constexpr uint8_t kModemLoopback = 0x10;
constexpr uint8_t kModemControlBits = 0x1f;

constexpr uint8_t kStatusDataReady = 0x01;
constexpr uint8_t kStatusTransmitterEmpty = 0x60;  // holding register and shifter

constexpr uint8_t kStatusClearToSend = 0x10;
constexpr uint8_t kStatusDataSetReady = 0x20;
constexpr uint8_t kStatusRing = 0x40;
constexpr uint8_t kStatusCarrier = 0x80;

constexpr size_t kLoopbackInput = 16;

}  // namespace

Serial::Serial(Interrupt& interrupt, ConsoleSink& sink, std::function<void()> input_drained)
    : interrupt_(interrupt), sink_(sink), input_drained_(std::move(input_drained)) {}

void Serial::read(uint64_t offset, std::span<uint8_t> data) {
  bool drained = false;
  {
    std::lock_guard lock(mutex_);
    for (uint8_t& value : data) value = read_register(offset++);
    drained = take_drained();
  }
  if (drained && input_drained_) input_drained_();
}

void Serial::write(uint64_t offset, std::span<const uint8_t> data) {
  bool drained = false;
  {
    std::lock_guard lock(mutex_);
    for (uint8_t value : data) write_register(offset++, value);
    drained = take_drained();
  }
  if (drained && input_drained_) input_drained_();
}

bool Serial::take_drained() {
  return input_count_ == 0 && std::exchange(input_refused_, false);
}

size_t Serial::receive(std::span<const uint8_t> bytes) {
  std::lock_guard lock(mutex_);
  size_t taken = std::min(kMaxInput - input_count_, bytes.size());
  for (uint8_t value : bytes.first(taken)) push_input(value);
  if (taken < bytes.size()) input_refused_ = true;
  update_interrupt();
  return taken;
}

uint8_t Serial::read_register(uint64_t offset) {
  const bool divisor_latch = (line_control_ & kLineDivisorLatch) != 0;
  switch (offset) {
    case kData:
      return divisor_latch ? divisor_[0] : take_input();
    case kInterruptEnable:
      return divisor_latch ? divisor_[1] : interrupt_enable_;
    case kInterruptIdentification:
      return identify_interrupt();
    case kLineControl:
      return line_control_;
    case kModemControl:
      return modem_control_;
    case kLineStatus:
      return static_cast<uint8_t>(kStatusTransmitterEmpty |
                                  (input_count_ == 0 ? 0 : kStatusDataReady));
    case kModemStatus:
      return modem_status();
    case kScratch:
      return scratch_;
    default:
      return 0xff;
  }
}

void Serial::write_register(uint64_t offset, uint8_t value) {
  const bool divisor_latch = (line_control_ & kLineDivisorLatch) != 0;
  switch (offset) {
    case kData:
      if (divisor_latch) {
        divisor_[0] = value;
      } else {
        transmit(value);
      }
      break;
    case kInterruptEnable:
      if (divisor_latch) {
        divisor_[1] = value;
        break;
      }
      // Enabling the interrupt of an empty transmitter signals it at once; drivers test for that.
      if ((value & ~interrupt_enable_ & kEnableTransmitterEmpty) != 0)
        transmitter_empty_pending_ = true;
      interrupt_enable_ = value & kInterruptEnableBits;
      break;
    case kInterruptIdentification:
      fifo_control_ = value & kFifoControlBits;
      if ((value & kFifoClearReceived) != 0) input_count_ = 0;
      break;
    case kLineControl:
      line_control_ = value;
      break;
    case kModemControl:
      modem_control_ = value & kModemControlBits;
      break;
    case kScratch:
      scratch_ = value;
      break;
    default:
      break;
  }
  update_interrupt();
}

void Serial::push_input(uint8_t value) {
  input_[(input_start_ + input_count_++) % kMaxInput] = value;
}

uint8_t Serial::take_input() {
  if (input_count_ == 0) return 0;
  uint8_t value = input_[input_start_];
  input_start_ = (input_start_ + 1) % kMaxInput;
  input_count_--;
  update_interrupt();
  return value;
}

// Reading the identification of an empty transmitter is what acknowledges it.
uint8_t Serial::identify_interrupt() {
  uint8_t reason = kIdentifyNone;
  if ((pending_ & kEnableReceived) != 0) {
    reason = kIdentifyReceived;
  } else if ((pending_ & kEnableTransmitterEmpty) != 0) {
    reason = kIdentifyTransmitterEmpty;
    transmitter_empty_pending_ = false;
    update_interrupt();
  }
  return static_cast<uint8_t>(reason |
                              ((fifo_control_ & kFifoEnable) != 0 ? kIdentifyFifosEnabled : 0));
}

void Serial::transmit(uint8_t value) {
  if ((modem_control_ & kModemLoopback) != 0) {
    if (input_count_ < kLoopbackInput) push_input(value);
  } else {
    sink_.write(std::span(&value, 1));
  }
  // The byte is gone already.
  transmitter_empty_pending_ = true;
}

// Raises the interrupt when a reason appears that has not been signalled yet.
void Serial::update_interrupt() {
  uint8_t reasons = 0;
  if (input_count_ > 0) reasons |= kEnableReceived;
  if (transmitter_empty_pending_) reasons |= kEnableTransmitterEmpty;
  reasons &= interrupt_enable_;
  uint8_t before = std::exchange(pending_, reasons);
  if ((reasons & ~before) != 0) interrupt_.raise();
}

// In loopback the outputs of the modem control register come back as its inputs.
uint8_t Serial::modem_status() const {
  if ((modem_control_ & kModemLoopback) == 0)
    return kStatusClearToSend | kStatusDataSetReady | kStatusCarrier;
  auto when = [this](uint8_t output, uint8_t input) {
    return (modem_control_ & output) != 0 ? input : uint8_t{0};
  };
  return static_cast<uint8_t>(when(kModemRequestToSend, kStatusClearToSend) |
                              when(kModemDataTerminalReady, kStatusDataSetReady) |
                              when(kModemOut1, kStatusRing) | when(kModemOut2, kStatusCarrier));
}

snapshot::SavedSerial Serial::save() {
  std::lock_guard lock(mutex_);
  snapshot::SavedSerial saved;
  for (size_t i = 0; i < input_count_; i++)
    saved.input.push_back(std::byte(input_[(input_start_ + i) % kMaxInput]));
  saved.transmitter_empty_pending = transmitter_empty_pending_;
  saved.pending = pending_;
  saved.interrupt_enable = interrupt_enable_;
  saved.fifo_control = fifo_control_;
  saved.line_control = line_control_;
  saved.modem_control = modem_control_;
  saved.scratch = scratch_;
  saved.divisor = static_cast<uint16_t>(divisor_[0] | divisor_[1] << 8);
  return saved;
}

Result<void> Serial::restore(const snapshot::SavedSerial& saved) {
  if (saved.input.size() > kMaxInput) return fail("the serial port holds too much input");
  std::lock_guard lock(mutex_);
  input_start_ = 0;
  input_count_ = saved.input.size();
  for (size_t i = 0; i < input_count_; i++) input_[i] = std::to_integer<uint8_t>(saved.input[i]);
  transmitter_empty_pending_ = saved.transmitter_empty_pending;
  pending_ = saved.pending;
  interrupt_enable_ = saved.interrupt_enable & kInterruptEnableBits;
  fifo_control_ = saved.fifo_control & kFifoControlBits;
  line_control_ = saved.line_control;
  modem_control_ = saved.modem_control & kModemControlBits;
  scratch_ = saved.scratch;
  divisor_ = {static_cast<uint8_t>(saved.divisor), static_cast<uint8_t>(saved.divisor >> 8)};
  return {};
}

}  // namespace hutch
