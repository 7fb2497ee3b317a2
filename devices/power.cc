#include "devices/power.h"

#include <algorithm>
#include <cstring>

#include "base/wire.h"

namespace hutch {
namespace {
constexpr uint64_t kKeyboardCommand = 4;  // port 0x64
constexpr uint8_t kKeyboardPulseReset = 0xfe;
constexpr uint8_t kKeyboardOutputFull = 0x01;
}  // namespace

void PowerRegister::read(uint64_t, std::span<uint8_t> data) {
  std::fill(data.begin(), data.end(), uint8_t{0});
}

void PowerRegister::write(uint64_t offset, std::span<const uint8_t> data) {
  le32 value;
  if (offset != 0 || data.size() != sizeof value) return;
  std::memcpy(&value, data.data(), sizeof value);
  if (value == kPowerOff) events_.power_off();
  if (value == kReset) events_.reset();
}

void KeyboardController::read(uint64_t offset, std::span<uint8_t> data) {
  for (uint8_t& value : data) value = offset++ == kKeyboardCommand ? kKeyboardOutputFull : 0;
}

void KeyboardController::write(uint64_t offset, std::span<const uint8_t> data) {
  for (uint8_t value : data) {
    if (offset++ == kKeyboardCommand && value == kKeyboardPulseReset) events_.reset();
  }
}

void PanicNotifier::read(uint64_t, std::span<uint8_t> data) {
  std::fill(data.begin(), data.end(), uint8_t{kPanicked | kCrashLoaded});
}

void PanicNotifier::write(uint64_t, std::span<const uint8_t> data) {
  if ((data[0] & kPanicked) != 0) {
    events_.panic(false);
  } else if ((data[0] & kCrashLoaded) != 0) {
    events_.panic(true);
  }
}

void BootMark::read(uint64_t, std::span<uint8_t> data) {
  std::fill(data.begin(), data.end(), uint8_t{0xff});
}

void BootMark::write(uint64_t, std::span<const uint8_t> data) {
  {
    std::lock_guard lock(mutex_);
    if (seen_.test(data[0])) return;
    seen_.set(data[0]);
  }
  events_.mark(data[0]);
}

}  // namespace hutch
