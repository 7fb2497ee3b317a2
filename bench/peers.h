// Other machine monitors: how each is told to start the machine that ours starts. Data only, so
// that it can be tested without them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace hutch::bench {

enum class PeerKind { kQemu, kFirecracker, kCloudHypervisor };

struct Peer {
  PeerKind kind = PeerKind::kQemu;
  std::string program;

  // For tables, and for --peer.
  const char* name() const;
};

// NAME=PATH with NAME one of qemu, firecracker, cloud-hypervisor. Throws BenchFailure.
Peer parse_peer(const std::string& text);

// The machine: one processor, the root image read-only as /dev/vda, the layer as /dev/vdb, vsock,
// no network.
struct PeerMachine {
  std::string kernel, initramfs, image, layer;
  std::string kernel_words;
  uint64_t memory_mib = 0;
  std::string folder;  // for sockets and the configuration; on a file system that takes sockets
  uint32_t guest_cid = 0;
};

struct PeerStart {
  std::vector<std::string> words;
  std::string config;  // the content of config_path(); empty: none
  // The agent dials vsock port 1024 of the host: with a path a Unix socket that the monitor
  // connects to, else AF_VSOCK.
  std::string agent_socket;
  // What the guest writes to the port of the boot mark comes out of standard output.
  bool shows_init = false;
};

PeerStart peer_start(const Peer& peer, const PeerMachine& machine);
std::string config_path(const PeerMachine& machine);

}  // namespace hutch::bench
