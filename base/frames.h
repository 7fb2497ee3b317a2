// Frames: the cable between a network device and what is at its other end. Neither knows the other:
// virtio/net has the guest's side, net/ the far side, and a test may have either.
//
// An Ethernet frame travels with what is left to be done to it (virtio 1.2 section 5.1.6: struct
// virtio_net_hdr; Linux: include/uapi/linux/virtio_net.h): a checksum to be filled in, a large TCP
// segment to be cut. On this cable such work is only ever described, never done: no link loses or
// changes bytes, so who reads a frame with kNeedsChecksum or kChecked does not look at the
// checksum.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace hutch {

// Beside a frame from the guest all of it is guest-controlled, but checked by the device: offsets
// lie inside the frame, and only what was negotiated is set.
struct FrameOffload {
  enum class Segmentation : uint8_t { kNone, kTcp4, kTcp6 };

  bool needs_checksum = false;   // the transport checksum is not filled in
  bool checked = false;          // it was, and is right
  uint16_t checksum_start = 0;   // with needs_checksum: where the sum begins, in bytes
  uint16_t checksum_offset = 0;  // and where it goes, from there
  Segmentation segmentation = Segmentation::kNone;
  uint16_t header_size = 0;   // with segmentation: Ethernet to TCP options, in bytes
  uint16_t segment_size = 0;  // and the payload of each segment, in bytes
};

// The longest frame: 64 KiB of IP packet behind an Ethernet header.
inline constexpr size_t kMaxFrame = 65535 + 14;

// What a device gives its frames to. Called on the device's loop only.
class FrameReceiver {
 public:
  virtual ~FrameReceiver() = default;
  // A frame from the guest, at least 14 and at most kMaxFrame bytes, guest-controlled; a copy that
  // nobody else writes to, valid during the call.
  virtual void on_frame(std::span<const std::byte> frame, const FrameOffload& offload) = 0;
  // The last of a run of frames has come: a good moment to answer them together.
  virtual void on_batch_end() = 0;
  // The guest has made room after a send() that found none.
  virtual void on_room() = 0;
};

// The device, as its far side sees it. On the device's loop only.
class FrameSender {
 public:
  virtual ~FrameSender() = default;
  // Whether the guest takes frames longer than its MTU, TCP over IPv4 or IPv6, cut or not.
  struct Abilities {
    bool checksum = false;  // needs_checksum and checked may be set
    bool tcp4 = false;
    bool tcp6 = false;
  };
  virtual Abilities abilities() const = 0;
  // Gives the guest a frame, put together of pieces. False, and nothing is sent, when the guest has
  // no room for it now; on_room() follows when it has made some. A frame that can never be sent
  // (too long, not able) is dropped and counted, and true is returned.
  virtual bool send(std::span<const std::span<const std::byte>> pieces,
                    const FrameOffload& offload) = 0;
  // Tells the guest of what was sent since the last flush.
  virtual void flush() = 0;
};

}  // namespace hutch
