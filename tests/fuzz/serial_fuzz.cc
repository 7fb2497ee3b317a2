// Fuzzes the serial port and the devices of devices/power.h: accesses of every width anywhere in
// them, and input from the host. Checked: memory is bounded, what is printed is harmless, input
// comes out as it went in, the transmitter never stalls.
#include <string>
#include <vector>

#include "devices/console_buffer.h"
#include "devices/power.h"
#include "devices/serial.h"
#include "tests/fuzz/fuzz_input.h"

namespace hutch::fuzz {
namespace {

class CountingInterrupt final : public Interrupt {
 public:
  void raise() override { count++; }
  uint64_t count = 0;
};

struct CountingEvents final : PowerEvents {
  void power_off() override { ends++; }
  void reset() override { ends++; }
  void panic(bool) override { ends++; }
  void mark(uint8_t) override { marks++; }
  uint64_t ends = 0;
  uint64_t marks = 0;
};

// Keeps what one run prints.
struct CheckedSink final : ConsoleSink {
  void write(std::span<const uint8_t> bytes) override {
    count += bytes.size();
    text.insert(text.end(), bytes.begin(), bytes.end());
    buffer.write(bytes);
  }
  uint64_t count = 0;
  std::vector<uint8_t> text;  // of one run
  ConsoleBuffer buffer;
};

void access(FuzzInput& input, BusDevice& device, uint64_t size) {
  const auto offset = input.below(static_cast<uint32_t>(size));
  static constexpr uint32_t kWidths[] = {1, 1, 1, 2, 4, 8};
  const uint64_t width = std::min<uint64_t>(input.pick(kWidths), size - offset);
  std::array<uint8_t, 8> data{};
  if (input.flip()) {
    device.read(offset, std::span(data).first(width));
    return;
  }
  for (uint8_t& value : std::span(data).first(width)) value = input.byte();
  device.write(offset, std::span<const uint8_t>(data).first(width));
}

}  // namespace
}  // namespace hutch::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace hutch;
  using namespace hutch::fuzz;
  FuzzInput input(data, size);
  CountingInterrupt interrupt;
  // Kept from run to run: a fresh ring each time would be most of the work.
  static CheckedSink sink;
  sink.text.clear();
  CountingEvents events;
  Serial serial(interrupt, sink, [] {});
  PowerRegister power(events);
  KeyboardController keyboard(events);
  PanicNotifier panic(events);
  BootMark mark(events);
  uint64_t steps = 0;
  for (; steps < 64 && !input.is_empty(); steps++) {
    switch (input.below(8)) {
      case 0:
        access(input, power, PowerRegister::kSize);
        break;
      case 1:
        access(input, keyboard, KeyboardController::kSize);
        break;
      case 2:
        access(input, panic, PanicNotifier::kSize);
        access(input, mark, BootMark::kSize);
        break;
      case 3: {
        std::array<uint8_t, 300> typed;
        typed.fill(input.byte());
        size_t count = input.rarely() ? 300 : input.below(20);
        FUZZ_CHECK(serial.receive(std::span(typed).first(count)) <= count);
        break;
      }
      default:
        access(input, serial, Serial::kSize);
    }
  }
  FUZZ_CHECK(events.ends <= 8 * steps && events.marks <= 256);
  FUZZ_CHECK(sink.text.size() <= steps && sink.buffer.printed() == sink.count);
  const std::string shown = printable_text(sink.text);
  for (char c : shown) FUZZ_CHECK(c == '\n' || c == '\t' || (c >= 0x20 && c < 0x7f));

  // Whatever came before: reset the chip as a driver does, then it works.
  auto out = [&](uint64_t offset, uint8_t value) {
    serial.write(offset, std::span<const uint8_t>(&value, 1));
  };
  auto in = [&](uint64_t offset) {
    uint8_t value = 0;
    serial.read(offset, std::span(&value, 1));
    return value;
  };
  out(3, 0);
  out(1, 0);
  out(4, 0);
  out(2, 0x07);
  FUZZ_CHECK((in(5) & 0x61) == 0x60);
  const uint8_t typed[] = {'o', 'k'};
  FUZZ_CHECK(serial.receive(typed) == 2);
  const uint64_t before = interrupt.count;
  out(1, 1);
  FUZZ_CHECK(interrupt.count == before + 1 && (in(2) & 0x0f) == 4);
  FUZZ_CHECK(in(0) == 'o' && in(0) == 'k' && (in(5) & 1) == 0);
  const uint64_t printed = sink.count;
  out(0, '!');
  FUZZ_CHECK(sink.count == printed + 1);
  return 0;
}
