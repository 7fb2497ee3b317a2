// Counters of a network device: what passed, and what did not, by reason.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace hutch::virtio::net {

// Why a frame went no further.
enum class Drop : uint8_t {
  kTooShort,       // shorter than the headers of virtio and Ethernet
  kTooLong,        // longer than any frame, or longer than the MTU and not to be cut
  kNotNegotiated,  // asks the other side for what was not negotiated
  kChecksum,       // a checksum outside the frame
  kSegmentation,   // a frame to be cut that is not what its header says
  kNoSuchRoom,     // only to the guest: its buffers are too small for it, now and later
};
constexpr size_t kDropReasons = 6;

struct DirectionCounters {
  uint64_t frames = 0;
  uint64_t bytes = 0;                             // of those frames, without virtio's header
  std::array<uint64_t, kDropReasons> drops = {};  // frames, by Drop

  uint64_t& dropped(Drop reason) { return drops[static_cast<size_t>(reason)]; }
  uint64_t dropped(Drop reason) const { return drops[static_cast<size_t>(reason)]; }
};

struct Counters {
  DirectionCounters from_guest;
  DirectionCounters to_guest;
  uint64_t refused = 0;  // frames that found no room in the guest, and were not taken
};

}  // namespace hutch::virtio::net
