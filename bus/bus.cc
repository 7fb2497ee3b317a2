#include "bus/bus.h"

#include <algorithm>

namespace hutch {

Result<void> Bus::add(uint64_t start, uint64_t size, BusDevice& device) {
  uint64_t last = 0;
  if (size == 0 || __builtin_add_overflow(start, size - 1, &last))
    return fail(
        fmt::format("{} range at {:#x} with {} bytes is empty or wraps", name_, start, size));
  auto next = ranges_.lower_bound(start);  // the first range that ends at or behind `start`
  if (next != ranges_.end() && next->second.start <= last)
    return fail(fmt::format("{} range at {:#x} with {} bytes overlaps the one at {:#x}", name_,
                            start, size, next->second.start));
  ranges_[last] = Range{start, size, &device};
  return {};
}

const Bus::Range* Bus::find(uint64_t address, size_t size) const {
  auto found = ranges_.lower_bound(address);
  if (found == ranges_.end()) return nullptr;
  const Range& range = found->second;
  if (address < range.start || size > range.size || address - range.start > range.size - size)
    return nullptr;
  return &range;
}

void Bus::report(const char* what, uint64_t address, size_t size) {
  // Guests probe for hardware that is not there; it is worth a line only when somebody looks.
  if (log_enabled(LogLevel::kDebug) && unknown_accesses_.allow())
    log_debug("guest {} of {} bytes at unknown {} address {:#x}", what, size, name_, address);
}

bool Bus::read(uint64_t address, std::span<uint8_t> data) {
  const Range* range = find(address, data.size());
  if (range == nullptr) {
    std::fill(data.begin(), data.end(), uint8_t{0xff});
    report("read", address, data.size());
    return false;
  }
  range->device->read(address - range->start, data);
  return true;
}

bool Bus::write(uint64_t address, std::span<const uint8_t> data) {
  const Range* range = find(address, data.size());
  if (range == nullptr) {
    report("write", address, data.size());
    return false;
  }
  range->device->write(address - range->start, data);
  return true;
}

}  // namespace hutch
