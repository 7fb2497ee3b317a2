// The header before each frame (virtio 1.2 section 5.1.6: struct virtio_net_hdr), to and from the
// FrameOffload of base/frames.h.
//
// What the header may ask for follows from what was negotiated, and from nothing else. It is always
// 12 bytes: the transport insists on VERSION_1, and HASH_REPORT is not offered.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <tl/expected.hpp>

#include "base/frames.h"
#include "virtio/net/counters.h"
#include "virtio/spec.h"

namespace hutch::virtio::net {

constexpr size_t kHeaderSize = sizeof(spec::NetHeader);
constexpr size_t kEthernetHeaderSize = 14;

// What driver and device have agreed upon.
struct Agreement {
  uint64_t features = 0;
  uint16_t mtu = 0;  // as announced; the driver looks at it only when it has negotiated MTU

  // Without the features that need others which the driver did not accept (section 5.1.3.1).
  static Agreement of(uint64_t negotiated, uint16_t mtu);
  bool has(uint64_t feature) const { return (features & feature) != 0; }
};

// What the guest asks to be done with `frame`, which is a copy of at least 14 and at most kMaxFrame
// bytes; both are guest-controlled. All in the answer is true of the frame.
tl::expected<FrameOffload, Drop> read_header(const spec::NetHeader& header,
                                             std::span<const std::byte> frame,
                                             const Agreement& agreement);

// The header for a frame of `size` bytes, any number, to the guest, but for the number of buffers.
tl::expected<spec::NetHeader, Drop> make_header(const FrameOffload& offload, size_t size,
                                                const Agreement& agreement);

}  // namespace hutch::virtio::net
