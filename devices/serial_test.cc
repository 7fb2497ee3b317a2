#include "devices/serial.h"

#include <doctest/doctest.h>

#include <random>
#include <string>
#include <thread>

#include "tests/guest_driver.h"

namespace hutch {
namespace {

constexpr uint64_t kData = 0, kEnable = 1, kIdentify = 2, kFifo = 2, kLine = 3, kModem = 4,
                   kLineStatus = 5, kModemStatus = 6, kScratch = 7;

struct Collector final : ConsoleSink {
  void write(std::span<const uint8_t> bytes) override { text.append(bytes.begin(), bytes.end()); }
  std::string text;
};

struct Fixture {
  uint8_t in(uint64_t port) {
    uint8_t value = 0;
    serial.read(port, std::span(&value, 1));
    return value;
  }
  void out(uint64_t port, int value) {
    auto byte = static_cast<uint8_t>(value);
    serial.write(port, std::span(&byte, 1));
  }
  size_t type(std::string_view text) {
    return serial.receive({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
  }

  testing::FakeInterrupt interrupt;
  Collector sink;
  int drained = 0;
  Serial serial{interrupt, sink, [this] { drained++; }};
};

TEST_CASE("output reaches the sink, and the transmitter is always ready") {
  Fixture fixture;
  for (char c : std::string("Linux version 6\n")) {
    CHECK((fixture.in(kLineStatus)&0x60) == 0x60);
    fixture.out(kData, c);
  }
  CHECK(fixture.sink.text == "Linux version 6\n");
  CHECK(fixture.interrupt.count() == 0);
}

TEST_CASE("a driver recognises a 16550A") {
  Fixture fixture;
  // The probe of Linux: the enable register keeps four bits and no more.
  fixture.out(kEnable, 0);
  CHECK(fixture.in(kEnable) == 0);
  fixture.out(kEnable, 0xff);
  CHECK(fixture.in(kEnable) == 0x0f);
  fixture.out(kEnable, 0);
  // Loopback: RTS and OUT2 come back as CTS and DCD.
  fixture.out(kModem, 0x10 | 0x0a);
  CHECK((fixture.in(kModemStatus)&0xf0) == 0x90);
  fixture.out(kModem, 0x10 | 0x05);
  CHECK((fixture.in(kModemStatus)&0xf0) == 0x60);
  fixture.out(kModem, 0);
  CHECK((fixture.in(kModemStatus)&0xf0) == 0xb0);
  // FIFOs: the two top bits of the identification follow the FIFO control.
  CHECK((fixture.in(kIdentify)&0xc0) == 0);
  fixture.out(kFifo, 0x01);
  CHECK((fixture.in(kIdentify)&0xc0) == 0xc0);
  // No chip of a later generation: its enhanced feature register is not there.
  fixture.out(kLine, 0xbf);
  CHECK(fixture.in(kIdentify) != 0);
  fixture.out(kLine, 0);
  for (int value : {0x55, 0xaa}) {
    fixture.out(kScratch, value);
    CHECK(fixture.in(kScratch) == value);
  }
}

TEST_CASE("the divisor lies behind its latch and neither prints nor enables") {
  Fixture fixture;
  fixture.out(kLine, 0x83);
  fixture.out(kData, 'x');
  fixture.out(kEnable, 0x02);
  CHECK(fixture.in(kData) == 'x');
  CHECK(fixture.in(kEnable) == 0x02);
  fixture.out(kLine, 0x03);
  CHECK(fixture.in(kEnable) == 0);
  CHECK(fixture.sink.text.empty());
  CHECK(fixture.interrupt.count() == 0);
}

TEST_CASE("enabling the transmitter interrupt signals an empty transmitter, each time") {
  Fixture fixture;
  for (uint64_t i = 1; i <= 3; i++) {
    fixture.out(kEnable, 0x02);
    CHECK(fixture.interrupt.count() == i);
    CHECK((fixture.in(kIdentify)&0x0f) == 0x02);
    CHECK((fixture.in(kIdentify)&0x0f) == 0x01);
    fixture.out(kEnable, 0);
  }
}

TEST_CASE("one interrupt for a burst of output, another after it was seen") {
  Fixture fixture;
  fixture.out(kEnable, 0x02);
  CHECK((fixture.in(kIdentify)&0x0f) == 0x02);
  for (int i = 0; i < 16; i++) fixture.out(kData, 'a');
  CHECK(fixture.interrupt.count() == 2);
  CHECK((fixture.in(kIdentify)&0x0f) == 0x02);
  for (int i = 0; i < 16; i++) fixture.out(kData, 'b');
  CHECK(fixture.interrupt.count() == 3);
}

TEST_CASE("input interrupts, is read in order, and goes before an empty transmitter") {
  Fixture fixture;
  fixture.out(kEnable, 0x03);
  CHECK((fixture.in(kIdentify)&0x0f) == 0x02);
  uint64_t before = fixture.interrupt.count();
  CHECK(fixture.type("ls\n") == 3);
  CHECK(fixture.interrupt.count() == before + 1);
  fixture.out(kData, 'x');
  std::string text;
  while ((fixture.in(kLineStatus)&1) != 0) {
    CHECK((fixture.in(kIdentify)&0x0f) == 0x04);
    text += static_cast<char>(fixture.in(kData));
  }
  CHECK(text == "ls\n");
  CHECK((fixture.in(kIdentify)&0x0f) == 0x02);
  CHECK((fixture.in(kIdentify)&0x0f) == 0x01);
  CHECK(fixture.in(kData) == 0);
}

TEST_CASE("input that was there before the driver enables its interrupt is signalled then") {
  Fixture fixture;
  fixture.type("x");
  CHECK(fixture.interrupt.count() == 0);
  fixture.out(kEnable, 0x01);
  CHECK(fixture.interrupt.count() == 1);
}

TEST_CASE("V24: input beyond the FIFO is refused, not kept, and its end is told") {
  Fixture fixture;
  std::string flood(100'000, 'y');
  CHECK(fixture.type(flood) == Serial::kMaxInput);
  CHECK(fixture.type(flood) == 0);
  for (size_t i = 0; i + 1 < Serial::kMaxInput; i++) CHECK(fixture.in(kData) == 'y');
  CHECK(fixture.drained == 0);
  fixture.in(kData);
  CHECK(fixture.drained == 1);
  CHECK((fixture.in(kLineStatus)&1) == 0);
  CHECK(fixture.type("more") == 4);
  fixture.out(kFifo, 0x03);
  CHECK((fixture.in(kLineStatus)&1) == 0);
  CHECK(fixture.drained == 1);
  // Cleared input makes room as well.
  CHECK(fixture.type(flood) == Serial::kMaxInput);
  fixture.out(kFifo, 0x03);
  CHECK(fixture.drained == 2);
}

TEST_CASE("V24: loopback keeps no more than the chip's FIFO") {
  Fixture fixture;
  fixture.out(kModem, 0x10);
  for (int i = 0; i < 1000; i++) fixture.out(kData, 'l');
  int looped = 0;
  for (; (fixture.in(kLineStatus)&1) != 0; looped++) CHECK(fixture.in(kData) == 'l');
  CHECK(looped == 16);
  CHECK(fixture.sink.text.empty());
}

TEST_CASE("V15: a wide or string access is one of each byte") {
  Fixture fixture;
  std::array<uint8_t, 4> bytes{'a', 0x0f, 0x01, 0x03};
  fixture.serial.write(0, bytes);
  CHECK(fixture.sink.text == "a");
  CHECK(fixture.in(kEnable) == 0x0f);
  CHECK(fixture.in(kLine) == 0x03);
  std::array<uint8_t, 8> all;
  fixture.serial.read(0, all);
  CHECK(all[1] == 0x0f);
  CHECK(all[3] == 0x03);
  for (uint64_t width = 1; width <= 8; width++) {
    for (uint64_t offset = 0; offset + width <= 8; offset++) {
      fixture.serial.read(offset, std::span(all).first(width));
      fixture.serial.write(offset, std::span(all).first(width));
    }
  }
}

TEST_CASE("a host thread types while a vCPU reads: nothing is lost") {
  Fixture fixture;
  fixture.out(kEnable, 0x01);
  constexpr size_t kCount = 50'000;
  std::thread host([&] {
    for (size_t sent = 0; sent < kCount;) {
      uint8_t value = static_cast<uint8_t>(sent % 251);
      sent += fixture.serial.receive(std::span(&value, 1));
    }
  });
  size_t wrong = 0;
  for (size_t received = 0; received < kCount;) {
    if ((fixture.in(kLineStatus)&1) == 0) continue;
    wrong += fixture.in(kData) != received++ % 251;
  }
  host.join();
  CHECK(wrong == 0);
}

}  // namespace
}  // namespace hutch
