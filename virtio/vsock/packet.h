// Packet: the header of a vsock packet (virtio 1.2 section 5.10.6), apart from its wire form.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "virtio/chain.h"
#include "virtio/spec.h"

namespace hutch::virtio::vsock {

struct Packet {
  uint64_t source_cid = 0;
  uint64_t destination_cid = 0;
  uint32_t source_port = 0;
  uint32_t destination_port = 0;
  uint32_t length = 0;  // bytes of payload behind the header
  uint16_t type = spec::kVsockTypeStream;
  uint16_t operation = 0;
  uint32_t flags = 0;
  uint32_t buffer_allocation = 0;
  uint32_t forwarded_count = 0;
};

constexpr uint64_t kHeaderSize = sizeof(spec::VsockHeader);

// Copies the header of a packet that the driver sends, once. Every field is guest-controlled, but
// `length` bytes of payload are there. Errors: a chain shorter than the header or the payload.
Result<Packet> read_packet(const Chain& chain);

// Puts the header at the start of the writable part of a chain, which has room for it.
Result<void> write_packet(const Chain& chain, const Packet& packet);

}  // namespace hutch::virtio::vsock
