#include "virtio/vsock/packet.h"

namespace hutch::virtio::vsock {

Result<Packet> read_packet(const Chain& chain) {
  spec::VsockHeader header;
  if (TRY(chain.read(0, std::as_writable_bytes(std::span(&header, 1)))) != sizeof header)
    return fail(fmt::format("a vsock packet of {} bytes has no header", chain.readable_size()));
  Packet packet{.source_cid = header.source_cid,
                .destination_cid = header.destination_cid,
                .source_port = header.source_port,
                .destination_port = header.destination_port,
                .length = header.length,
                .type = header.type,
                .operation = header.operation,
                .flags = header.flags,
                .buffer_allocation = header.buffer_allocation,
                .forwarded_count = header.forwarded_count};
  if (packet.length > chain.readable_size() - sizeof header)
    return fail(fmt::format("a vsock packet of {} bytes claims a payload of {}",
                            chain.readable_size(), packet.length));
  return packet;
}

Result<void> write_packet(const Chain& chain, const Packet& packet) {
  spec::VsockHeader header{.source_cid = packet.source_cid,
                           .destination_cid = packet.destination_cid,
                           .source_port = packet.source_port,
                           .destination_port = packet.destination_port,
                           .length = packet.length,
                           .type = packet.type,
                           .operation = packet.operation,
                           .flags = packet.flags,
                           .buffer_allocation = packet.buffer_allocation,
                           .forwarded_count = packet.forwarded_count};
  TRY(chain.write(0, std::as_bytes(std::span(&header, 1))));
  return {};
}

}  // namespace hutch::virtio::vsock
