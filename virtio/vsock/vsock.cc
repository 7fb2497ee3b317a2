#include "virtio/vsock/vsock.h"

#include <sys/socket.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstring>

namespace hutch::virtio {

using vsock::Connection;
using vsock::kHeaderSize;
using vsock::Packet;

namespace {
constexpr uint16_t kQueueSize = 256;
constexpr uint16_t kEventQueueSize = 16;
constexpr uint32_t kStreamEvents = EPOLLIN | EPOLLRDHUP | EPOLLET;
constexpr uint32_t kMaxPayload = 64 * 1024;
// Linux takes this many parts in one system call.
constexpr size_t kMaxParts = 1024;
}  // namespace

Vsock::Vsock(Loop& loop, uint64_t guest_cid)
    : loop_(loop),
      guest_cid_(guest_cid),
      rx_(loop, [this](const Chain& chain) { return fill(chain); }),
      tx_(loop, [this](const Chain& chain) { return receive(chain); },
          {.after_batch = [this] { rx_.run(); }}),
      event_(loop, [this](const Chain& chain) { return tell(chain); }) {}

DeviceTraits Vsock::traits() const {
  return {.device_id = spec::kDeviceIdVsock,
          .features = spec::kVsockFeatureStream,
          .queue_sizes = {kQueueSize, kQueueSize, kEventQueueSize},
          .config_size = sizeof(spec::VsockConfig)};
}

void Vsock::read_config(uint32_t offset, std::span<uint8_t> data) {
  spec::VsockConfig config{guest_cid_};
  std::memcpy(data.data(), reinterpret_cast<const uint8_t*>(&config) + offset, data.size());
}

Result<void> Vsock::start_queue(uint16_t index, QueueResources resources, uint64_t) {
  QueueRunner& runner = index == spec::kVsockQueueRx   ? rx_
                        : index == spec::kVsockQueueTx ? tx_
                                                       : event_;
  return runner.start(std::move(resources));
}

std::optional<QueueState> Vsock::stop_queue(uint16_t index) {
  QueueRunner& runner = index == spec::kVsockQueueRx   ? rx_
                        : index == spec::kVsockQueueTx ? tx_
                                                       : event_;
  return runner.stop();
}

void Vsock::reset() {
  loop_.run_on_loop([this] {
    links_.clear();
    ready_.clear();
    strays_.clear();
  });
}

// --- The host's side ---------------------------------------------------------------------------

void Vsock::offer(uint32_t host_port, Fd stream, std::function<void()> opened) {
  offers_[host_port] = {std::move(stream), std::move(opened)};
}

Result<void> Vsock::connect(uint32_t guest_port, Fd stream) {
  Key key{next_host_port_++, guest_port};
  while (links_.contains(key)) key.host_port = next_host_port_++;
  TRY(add(key, Connection::requested(), std::move(stream)));
  Link& link = *links_.at(key);
  link.deadline = loop_.after(kConnectTimeout, [this, key](uint32_t) {
    log_warning("the guest did not answer a connection to its vsock port {} in {} s",
                key.guest_port, kConnectTimeout.count());
    end(key);
  });
  enqueue(key, link);
  rx_.run();
  return {};
}

Result<void> Vsock::add(Key key, Connection connection, Fd stream) {
  if (links_.size() >= kMaxConnections)
    return fail(fmt::format("{} vsock connections are open; that is the most", links_.size()));
  auto link = std::make_unique<Link>(std::move(connection), std::move(stream));
  link->watch =
      TRY_CONTEXT("bridging a vsock connection",
                  loop_.watch(link->stream.get(), kStreamEvents,
                              [this, key](uint32_t events) { stream_event(key, events); }));
  links_[key] = std::move(link);
  return {};
}

void Vsock::end(Key key) {
  links_.erase(key);
}

void Vsock::stream_event(Key key, uint32_t events) {
  Link& link = *links_.at(key);
  if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) link.readable = true;
  if ((events & EPOLLOUT) != 0) flush(link);
  // Both directions of the stream are over; if the guest did not end its own, the reader has left.
  if ((events & (EPOLLHUP | EPOLLERR)) != 0 && !link.output_shut) link.connection.reader_gone();
  settle(key, link);
  rx_.run();
}

// Section 5.10.6.7; anything else that could be told does not happen here.
Result<std::optional<uint64_t>> Vsock::tell(const Chain& chain) {
  if (!is_reset_due_) return std::nullopt;
  const le32 event = spec::kVsockEventTransportReset;
  TRY(chain.write(0, std::as_bytes(std::span(&event, 1))));
  is_reset_due_ = false;
  return sizeof event;
}

// --- From the guest ----------------------------------------------------------------------------

Result<std::optional<uint64_t>> Vsock::receive(const Chain& chain) {
  const Packet packet = TRY(vsock::read_packet(chain));
  if (packet.source_cid != guest_cid_) {
    if (complaints_.allow())
      log_warning("vsock: the guest sends as CID {}, which it is not; dropped", packet.source_cid);
    return 0;
  }
  const Key key{packet.destination_port, packet.source_port};
  auto found = links_.find(key);
  const bool is_for_link = packet.destination_cid == spec::kVsockHostCid &&
                           packet.type == spec::kVsockTypeStream && found != links_.end() &&
                           !found->second->connection.is_lingering();
  if (!is_for_link) {
    open(packet);
    return 0;
  }
  Link& link = *found->second;
  switch (link.connection.receive(packet)) {
    case Connection::Verdict::kBroken:
      reply_reset(packet);
      end(key);
      return 0;
    case Connection::Verdict::kEnded:
      end(key);
      return 0;
    case Connection::Verdict::kPayload:
      TRY(forward(link, chain, packet.length));
      break;
    case Connection::Verdict::kGoOn:
      if (link.connection.is_established()) link.deadline.reset();
      break;
  }
  settle(key, link);
  return 0;
}

// A packet without a connection: the guest may open what was offered; all else is reset.
void Vsock::open(const Packet& packet) {
  const Key key{packet.destination_port, packet.source_port};
  auto offer = offers_.find(packet.destination_port);
  const bool is_welcome =
      packet.operation == spec::kVsockRequest && packet.destination_cid == spec::kVsockHostCid &&
      packet.type == spec::kVsockTypeStream && offer != offers_.end() &&
      packet.forwarded_count == 0 && links_.size() < kMaxConnections && !links_.contains(key);
  if (!is_welcome) {
    reply_reset(packet);
    return;
  }
  Offer taken = std::move(offer->second);
  offers_.erase(offer);
  if (Result<void> added = add(key, Connection::accepted(packet), std::move(taken.stream));
      !added) {
    log_error("{}", added.error().text());
    reply_reset(packet);
    return;
  }
  enqueue(key, *links_.at(key));
  if (taken.opened) taken.opened();
}

void Vsock::reply_reset(const Packet& packet) {
  if (packet.operation == spec::kVsockReset || strays_.size() >= kMaxStrayResets) return;
  strays_.push_back(
      {packet.destination_cid, packet.destination_port, packet.source_port, packet.type});
}

Result<void> Vsock::forward(Link& link, const Chain& chain, uint32_t length) {
  Connection& connection = link.connection;
  uint64_t done = 0;
  if (length > 0 && connection.buffered().empty() && !connection.is_reader_gone()) {
    std::vector<iovec> parts = TRY(chain.readable_view(kHeaderSize, length));
    done = send(link, std::span(parts).first(std::min(parts.size(), kMaxParts)));
    connection.forwarded(done, true);
  }
  if (connection.is_reader_gone()) {
    connection.forwarded(length - done, true);
  } else if (done < length) {
    TRY(chain.read(kHeaderSize + done, connection.extend(length - done)));
  }
  return {};
}

// Writes to the stream what it takes at once; returns how many bytes that were.
size_t Vsock::send(Link& link, std::span<const iovec> parts) {
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(parts.data());
  message.msg_iovlen = parts.size();
  for (;;) {
    ssize_t count = ::sendmsg(link.stream.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (count >= 0) return static_cast<size_t>(count);
    if (errno == EINTR) continue;
    if (errno != EAGAIN) link.connection.reader_gone();
    return 0;
  }
}

void Vsock::flush(Link& link) {
  while (!link.connection.buffered().empty()) {
    std::span<const std::byte> bytes = link.connection.buffered();
    iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
    size_t count = send(link, std::span(&part, 1));
    if (count == 0) return;
    link.connection.forwarded(count, false);
  }
}

// Carries the connection's state over to the stream and to the queue towards the guest.
void Vsock::settle(Key key, Link& link) {
  Connection& connection = link.connection;
  if (connection.is_lingering() && connection.buffered().empty()) {
    end(key);
    return;
  }
  if (link.stream && connection.guest_is_drained() && !link.output_shut) {
    ::shutdown(link.stream.get(), SHUT_WR);
    link.output_shut = true;
  }
  if (link.stream && connection.guest_is_done_receiving() && !link.input_shut) {
    ::shutdown(link.stream.get(), SHUT_RD);
    link.input_shut = true;
  }
  const bool input_over = connection.is_writer_gone() || connection.guest_is_done_receiving();
  const bool output_over = connection.is_reader_gone() || link.output_shut;
  if (link.stream && input_over && output_over) {
    link.watch.reset();
    link.stream.reset();
  } else if (link.stream && link.wants_output != !connection.buffered().empty()) {
    link.wants_output = !link.wants_output;
    Result<void> modified =
        loop_.modify(link.watch, kStreamEvents | (link.wants_output ? uint32_t{EPOLLOUT} : 0));
    assert(modified);
  }
  enqueue(key, link);
}

// --- To the guest ------------------------------------------------------------------------------

// Whether the stream may have bytes that the connection could take.
bool Vsock::can_fill(const Link& link) const {
  return link.stream && link.readable && link.connection.is_established() &&
         !link.connection.is_writer_gone() && !link.connection.guest_is_done_receiving();
}

void Vsock::enqueue(Key key, Link& link) {
  if (link.is_queued || !(link.connection.has_control() || can_fill(link))) return;
  link.is_queued = true;
  ready_.push_back(key);
}

// Fills one buffer of the guest with the next packet; nothing when there is none.
Result<std::optional<uint64_t>> Vsock::fill(const Chain& chain) {
  if (chain.writable_size() <= kHeaderSize)
    return fail(fmt::format("a vsock receive buffer of {} bytes has no room for a packet",
                            chain.writable_size()));
  if (!strays_.empty()) {
    const Stray stray = strays_.front();
    strays_.pop_front();
    TRY(vsock::write_packet(chain, {.source_cid = stray.source_cid,
                                    .destination_cid = guest_cid_,
                                    .source_port = stray.source_port,
                                    .destination_port = stray.destination_port,
                                    .type = stray.type,
                                    .operation = spec::kVsockReset}));
    return kHeaderSize;
  }
  while (!ready_.empty()) {
    const Key key = ready_.front();
    ready_.pop_front();
    auto found = links_.find(key);
    if (found == links_.end()) continue;  // it has ended since
    Link& link = *found->second;
    link.is_queued = false;
    uint64_t written = TRY(fill_from(key, link, chain));
    if (written > 0) return written;
  }
  return std::nullopt;
}

// Puts the next packet of one connection into the chain and the connection back into the queue;
// returns the bytes written, 0 when the connection has nothing.
Result<uint64_t> Vsock::fill_from(Key key, Link& link, const Chain& chain) {
  Connection& connection = link.connection;
  if (std::optional<Packet> control = connection.next_control()) {
    uint64_t written = TRY(put(chain, key, link, *control));
    if (control->operation == spec::kVsockReset) {
      end(key);
    } else {
      enqueue(key, link);
    }
    return written;
  }
  if (!can_fill(link)) return 0;
  const uint64_t room =
      std::min<uint64_t>({chain.writable_size() - kHeaderSize, connection.credit(), kMaxPayload});
  if (room == 0) {
    connection.starved();
    std::optional<Packet> request = connection.next_control();
    if (!request) return 0;  // asked already; the guest's answer queues the connection again
    return put(chain, key, link, *request);
  }
  std::vector<iovec> parts = TRY(chain.writable_view(kHeaderSize, room));
  msghdr message{};
  message.msg_iov = parts.data();
  message.msg_iovlen = std::min(parts.size(), kMaxParts);
  ssize_t count;
  do {
    count = ::recvmsg(link.stream.get(), &message, MSG_DONTWAIT);
  } while (count < 0 && errno == EINTR);
  if (count < 0 && errno == EAGAIN) {
    link.readable = false;
    return 0;
  }
  if (count <= 0) {
    connection.writer_gone();
    settle(key, link);
    std::optional<Packet> control = connection.next_control();
    if (!control) return 0;
    return put(chain, key, link, *control);
  }
  connection.sent(static_cast<uint32_t>(count));
  uint64_t written =
      TRY(put(chain, key, link,
              {.length = static_cast<uint32_t>(count), .operation = spec::kVsockReadWrite}));
  enqueue(key, link);
  return written;
}

// Writes the header of a packet whose payload, if any, is in the chain already.
Result<uint64_t> Vsock::put(const Chain& chain, Key key, Link& link, Packet packet) {
  packet.source_cid = spec::kVsockHostCid;
  packet.destination_cid = guest_cid_;
  packet.source_port = key.host_port;
  packet.destination_port = key.guest_port;
  link.connection.stamp(packet);
  TRY(vsock::write_packet(chain, packet));
  return kHeaderSize + packet.length;
}

}  // namespace hutch::virtio
