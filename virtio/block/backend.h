// Backend: where a disk's bytes lie. A device knows nothing else about its disk, so that tests can
// put a failing or slow one under it.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <span>

#include "base/result.h"

namespace hutch::virtio::block {

// All calls come from one thread, the disk's loop, and may block. `offset` and sizes are in bytes,
// multiples of 512 and inside size(); errors are the host's.
class Backend {
 public:
  virtual ~Backend() = default;

  // Bytes; does not change.
  virtual uint64_t size() const = 0;
  // Fills the buffers (guest memory, only to be handed to the kernel) from `offset`.
  virtual Result<void> read(std::span<const iovec> buffers, uint64_t offset) = 0;
  virtual Result<void> write(std::span<const iovec> buffers, uint64_t offset) = 0;
  // Everything written before survives a power cut when this returns.
  virtual Result<void> flush() = 0;
  // The guest needs these bytes no more; they may read as anything after this.
  virtual Result<void> discard(uint64_t offset, uint64_t size) = 0;
  // These bytes read as zero after this; `may_unmap`: their space may be given back.
  virtual Result<void> write_zeroes(uint64_t offset, uint64_t size, bool may_unmap) = 0;
};

}  // namespace hutch::virtio::block
