// FrameReader: takes the frames that the guest sends out of its transmit queue.
//
// Each is copied out of guest memory once, whole, before anything of it is looked at: what was
// judged and what is passed on is the same copy. The driver has its buffers back at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/frames.h"
#include "base/result.h"
#include "virtio/net/counters.h"
#include "virtio/net/header.h"
#include "virtio/queue.h"

namespace hutch::virtio::net {

class FrameReader {
 public:
  // A turn ends after so many frames, or so many bytes: other work waits for it.
  static constexpr uint32_t kMaxFrames = 64;
  static constexpr uint64_t kMaxBytes = 512 * 1024;

  FrameReader();

  // Passes the frames that wait in `queue` on to `receiver`, and leaves their buffers to be
  // published. Returns false when none waits any more and the driver has been asked to notify, true
  // when the turn is over before that. Errors: a broken ring.
  Result<bool> run(Queue& queue, const Agreement& agreement, FrameReceiver& receiver,
                   DirectionCounters& counters);

 private:
  // The frame in the first `size` bytes of the buffer, behind its header.
  void pass_on(size_t size, const Agreement& agreement, FrameReceiver& receiver,
               DirectionCounters& counters) const;

  std::unique_ptr<std::byte[]> buffer_;  // header and the longest frame
};

}  // namespace hutch::virtio::net
