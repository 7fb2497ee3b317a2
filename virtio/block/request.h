// Request: a block request (virtio 1.2 section 5.2.6) from the guest's bytes to its status.
//
//   parse(chain) -> Request -> the backend -> finish(Pending, result) -> Finished
//
// parse() reads the guest's header and ranges once and checks everything; what follows works on
// checked values, and finish() is not even given the chain.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "virtio/chain.h"
#include "virtio/spec.h"

namespace hutch::virtio::block {

// Limits that the configuration space tells the driver.
constexpr uint32_t kMaxSegments = 254;            // data buffers; more are taken
constexpr uint32_t kMaxDiscardRanges = 16;        // in one request
constexpr uint32_t kMaxDiscardSectors = 1 << 21;  // in one range: 1 GiB
constexpr uint32_t kMaxZeroRanges = 1;
constexpr uint32_t kMaxZeroSectors = 1 << 17;  // 64 MiB: it may have to be written
// A request occupies the disk's thread until it is done, so its size is bounded.
constexpr uint64_t kMaxTransfer = 256 << 20;

// What parse() checks against.
struct Disk {
  uint64_t size = 0;  // bytes, whole sectors
  bool read_only = false;
  uint64_t features = 0;  // negotiated
};

enum class Kind : uint8_t {
  kRead,
  kWrite,
  kFlush,
  kDiscard,
  kWriteZeroes,
  kIdentify,
  kRefused,  // goes to no backend
};

struct Range {
  uint64_t offset = 0;  // bytes
  uint64_t size = 0;
  bool may_unmap = false;
};

// All that the end of a request needs.
struct Pending {
  Kind kind = Kind::kRefused;
  uint8_t refusal = spec::kBlockStatusOk;  // kRefused: the status
  uint64_t status_offset = 0;              // of the status byte in the writable part
  uint64_t data_size = 0;                  // bytes written into the writable part when all is well
};

struct Request {
  Pending pending;
  uint64_t offset = 0;         // kRead, kWrite: bytes from the start of the disk
  std::vector<iovec> buffers;  // kRead, kWrite: guest memory, for the kernel
  std::vector<Range> ranges;   // kDiscard, kWriteZeroes
};

// Errors: a chain without a status byte, which cannot be answered. Everything else that is wrong
// becomes a refused request.
Result<Request> parse(const Chain& chain, const Disk& disk);

struct Finished {
  uint8_t status = spec::kBlockStatusOk;
  uint64_t written = 0;  // bytes at the start of the writable part that are valid
};
Finished finish(const Pending& pending, const Result<void>& result);

}  // namespace hutch::virtio::block
