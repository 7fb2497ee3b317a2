// Bus: guest addresses of one space (ports or memory-mapped I/O) to devices.
//
// An access has the width the guest chose and may be unaligned or straddle a device's end; all of
// it is guest-controlled. An access that is not wholly inside one device reads all ones and writes
// nothing.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "base/log.h"
#include "base/result.h"

namespace hutch {

class BusDevice {
 public:
  virtual ~BusDevice() = default;
  // Fills `data` (1 to 8 bytes, guest-chosen) from `offset` within the device's range. Called on
  // any vCPU thread, several at once: the device locks.
  virtual void read(uint64_t offset, std::span<uint8_t> data) = 0;
  virtual void write(uint64_t offset, std::span<const uint8_t> data) = 0;
};

class Bus {
 public:
  // `name` is for messages: "port" or "mmio".
  explicit Bus(const char* name) : name_(name) {}

  // Places a device, which must outlive the bus. Before the first access only. An empty, wrapping
  // or overlapping range is an error.
  Result<void> add(uint64_t start, uint64_t size, BusDevice& device);

  // An access by the guest; any vCPU thread. Returns whether a device took it.
  bool read(uint64_t address, std::span<uint8_t> data);
  bool write(uint64_t address, std::span<const uint8_t> data);

 private:
  struct Range {
    uint64_t start = 0;
    uint64_t size = 0;
    BusDevice* device = nullptr;
  };
  const Range* find(uint64_t address, size_t size) const;
  void report(const char* what, uint64_t address, size_t size);

  const char* name_;
  std::map<uint64_t, Range> ranges_;  // by last address
  RateLimit unknown_accesses_{8};
};

}  // namespace hutch
