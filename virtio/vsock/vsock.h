// Vsock: the socket device (virtio 1.2 section 5.10), in user space: each connection of the guest
// is bridged to one connected Unix stream socket of the host.
//
// The guest kernel needs kernel-config/features/virtio-vsock.config. The guest can open nothing
// but ports that the host has offered, each once; everything else is answered with RST. Memory is
// bounded: Connection::kBufferSize per connection, kMaxConnections, kMaxStrayResets.
//
// Left out: SEQPACKET, more than one guest CID.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <unordered_map>

#include "base/fd.h"
#include "base/log.h"
#include "base/loop.h"
#include "virtio/device.h"
#include "virtio/queue_runner.h"
#include "virtio/vsock/connection.h"
#include "virtio/vsock/packet.h"

namespace hutch::virtio {

class Vsock final : public Device {
 public:
  static constexpr size_t kMaxConnections = 256;
  // Answers to packets that belong to no connection, waiting for a buffer of the guest; beyond
  // this they are dropped.
  static constexpr size_t kMaxStrayResets = 256;
  static constexpr std::chrono::seconds kConnectTimeout{10};

  // `guest_cid` from 3 on. Everything happens on the loop's thread. Built and destroyed on that
  // thread, or while nobody runs the loop.
  Vsock(Loop& loop, uint64_t guest_cid);

  // Lets the guest connect to `host_port` once; `stream`, a connected Unix stream socket, is the
  // other end. It is closed when the connection ends. Survives resets of the device until then.
  // `opened` is called on the loop's thread when the guest has taken the offer. On the loop's
  // thread.
  void offer(uint32_t host_port, Fd stream, std::function<void()> opened = nullptr);
  // Connects to `guest_port`; `stream` becomes the other end when the guest accepts and is closed
  // when it refuses, does not answer in kConnectTimeout, or resets the device. On the loop's
  // thread. Errors: too many connections, no descriptors left.
  Result<void> connect(uint32_t guest_port, Fd stream);
  // Tells the guest that this is another host than its connections were made to: they are reset
  // (section 5.10.6.7). For a machine that was restored, before its queues start.
  void announce_reset() { is_reset_due_ = true; }

  DeviceTraits traits() const override;
  void read_config(uint32_t offset, std::span<uint8_t> data) override;
  void write_config(uint32_t, std::span<const uint8_t>) override {}
  Result<void> start_queue(uint16_t index, QueueResources resources, uint64_t features) override;
  std::optional<QueueState> stop_queue(uint16_t index) override;
  // Ends all connections.
  void reset() override;

  // For tests, on the loop's thread.
  size_t connection_count() const { return links_.size(); }
  size_t stray_reset_count() const { return strays_.size(); }

 private:
  struct Key {
    uint32_t host_port = 0;
    uint32_t guest_port = 0;
    bool operator==(const Key&) const = default;
  };
  struct KeyHash {
    size_t operator()(const Key& key) const {
      return static_cast<size_t>(key.host_port) << 32 | key.guest_port;
    }
  };
  // One connection and its stream.
  struct Link {
    Link(vsock::Connection initial, Fd socket)
        : connection(std::move(initial)), stream(std::move(socket)) {}
    vsock::Connection connection;
    Fd stream;       // closed when nothing can go either way any more
    Watch watch;     // edge-triggered: `readable` remembers
    Watch deadline;  // of the guest's answer
    bool readable = true;
    bool wants_output = false;  // watch includes EPOLLOUT
    bool output_shut = false;   // SHUT_WR has been done
    bool input_shut = false;    // SHUT_RD has been done
    bool is_queued = false;     // in ready_
  };
  // An RST that is due for a packet without a connection.
  struct Stray {
    uint64_t source_cid = 0;
    uint32_t source_port = 0;
    uint32_t destination_port = 0;
    uint16_t type = 0;
  };

  Result<std::optional<uint64_t>> receive(const Chain& chain);
  Result<std::optional<uint64_t>> fill(const Chain& chain);
  Result<std::optional<uint64_t>> tell(const Chain& chain);
  void open(const vsock::Packet& packet);
  Result<void> add(Key key, vsock::Connection connection, Fd stream);
  void end(Key key);
  void reply_reset(const vsock::Packet& packet);
  Result<void> forward(Link& link, const Chain& chain, uint32_t length);
  size_t send(Link& link, std::span<const iovec> parts);
  void flush(Link& link);
  Result<uint64_t> fill_from(Key key, Link& link, const Chain& chain);
  Result<uint64_t> put(const Chain& chain, Key key, Link& link, vsock::Packet packet);
  void stream_event(Key key, uint32_t events);
  void settle(Key key, Link& link);
  void enqueue(Key key, Link& link);
  bool can_fill(const Link& link) const;

  Loop& loop_;
  const uint64_t guest_cid_;
  struct Offer {
    Fd stream;
    std::function<void()> opened;
  };
  std::map<uint32_t, Offer> offers_;  // by host port
  std::unordered_map<Key, std::unique_ptr<Link>, KeyHash> links_;
  std::deque<Key> ready_;  // links that may have something for the guest
  std::deque<Stray> strays_;
  uint32_t next_host_port_ = 0x4000'0000;
  bool is_reset_due_ = false;
  RateLimit complaints_{4};
  QueueRunner rx_, tx_, event_;
};

}  // namespace hutch::virtio
