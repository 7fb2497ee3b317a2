// FrameWriter: puts frames into the buffers of the guest's receive queue.
//
// A frame goes into one buffer, or, where the driver has negotiated that, into as many as it needs.
// Buffers are taken only when there are enough of them; before that nothing is written.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "virtio/net/header.h"
#include "virtio/queue.h"

namespace hutch::virtio::net {

class FrameWriter {
 public:
  enum class Outcome {
    kWritten,     // its buffers are left to be published
    kNoRoom,      // not now: `waiting` buffers are too small together
    kNoSuchRoom,  // never: neither one buffer nor all of the queue together can hold it
  };
  struct Answer {
    Outcome outcome = Outcome::kWritten;
    uint16_t waiting = 0;
  };

  // `pieces` are `size` bytes together, at most kMaxFrame. Errors: a broken ring, a buffer that
  // cannot even hold the header.
  Result<Answer> write(Queue& queue, const Agreement& agreement, const spec::NetHeader& header,
                       std::span<const std::span<const std::byte>> pieces, size_t size);

 private:
  Result<Outcome> gather(Queue& queue, const Agreement& agreement, uint64_t needed);
  Result<void> fill(const spec::NetHeader& header,
                    std::span<const std::span<const std::byte>> pieces) const;
  Result<void> complete(Queue& queue, uint64_t needed);

  std::vector<Chain> chains_;  // of the frame at hand
};

}  // namespace hutch::virtio::net
