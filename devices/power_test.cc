#include "devices/power.h"

#include <doctest/doctest.h>

#include <string>
#include <thread>
#include <vector>

#include "base/wire.h"

namespace hutch {
namespace {

struct Events final : PowerEvents {
  void power_off() override { said += "off "; }
  void reset() override { said += "reset "; }
  void panic(bool crash_kernel) override { said += crash_kernel ? "crash " : "panic "; }
  void mark(uint8_t value) override { said += "mark" + std::to_string(value) + " "; }
  std::string said;
};

template <typename T>
void write(BusDevice& device, uint64_t offset, T value) {
  device.write(offset, std::span(reinterpret_cast<const uint8_t*>(&value), sizeof value));
}
template <typename T>
T read(BusDevice& device, uint64_t offset) {
  T value{};
  device.read(offset, std::span(reinterpret_cast<uint8_t*>(&value), sizeof value));
  return value;
}

TEST_CASE("the power register takes 1 and 2, as one 32-bit write") {
  Events events;
  PowerRegister device(events);
  write(device, 0, le32(1));
  write(device, 0, le32(2));
  CHECK(events.said == "off reset ");
  CHECK(read<le32>(device, 0) == 0);
}

TEST_CASE("V15: the power register ignores every other value, width and offset") {
  Events events;
  PowerRegister device(events);
  for (uint32_t value : {0u, 3u, 0x101u, 0x01000000u, 0xffffffffu}) write(device, 0, le32(value));
  for (uint8_t value : {uint8_t{1}, uint8_t{2}}) {
    for (uint64_t offset = 0; offset < 4; offset++) write(device, offset, value);
    write(device, 0, le16(value));
    write(device, 2, le16(value));
  }
  CHECK(events.said.empty());
}

TEST_CASE("the keyboard controller resets, and looks neither busy nor like a controller") {
  Events events;
  KeyboardController device(events);
  constexpr uint64_t kCommand = 4;
  // A kernel waits for bit 1 to clear before it resets, and finds no keyboard while bit 0 is set.
  CHECK(read<uint8_t>(device, kCommand) == 0x01);
  CHECK(read<uint8_t>(device, 0) == 0);
  for (int value : {0x20, 0xaa, 0xd1, 0xff}) write(device, kCommand, static_cast<uint8_t>(value));
  write(device, 0, uint8_t{0xfe});
  CHECK(events.said.empty());
  write(device, kCommand, uint8_t{0xfe});
  CHECK(events.said == "reset ");
}

TEST_CASE("the panic notifier says what it understands and reports it") {
  Events events;
  PanicNotifier device(events);
  CHECK(read<uint8_t>(device, 0) == 3);
  for (int value : {0, 4, 0xfc}) write(device, 0, static_cast<uint8_t>(value));
  CHECK(events.said.empty());
  write(device, 0, PanicNotifier::kPanicked);
  write(device, 0, PanicNotifier::kCrashLoaded);
  CHECK(events.said == "panic crash ");
}

TEST_CASE("each boot mark is reported once, however often and by how many it is written") {
  Events events;
  BootMark device(events);
  CHECK(read<uint8_t>(device, 0) == 0xff);
  write(device, 0, uint8_t{1});
  write(device, 0, uint8_t{7});
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; i++) {
    threads.emplace_back([&] {
      for (int j = 0; j < 10'000; j++) write(device, 0, uint8_t{1});
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(events.said == "mark1 mark7 ");
}

}  // namespace
}  // namespace hutch
