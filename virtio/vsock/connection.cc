#include "virtio/vsock/connection.h"

#include <algorithm>
#include <cassert>

namespace hutch::virtio::vsock {
namespace {
// More than this in flight would make it ambiguous which of two counters is ahead.
constexpr uint32_t kMaxPeerAllocation = 1u << 30;
// The guest is told of freed room in steps of this: often enough that it need not wait, seldom
// enough that small packets do not each cause another.
constexpr uint32_t kCreditStep = Connection::kBufferSize / 4;
}  // namespace

Connection Connection::accepted(const Packet& request) {
  Connection connection(State::kEstablished, kResponse);
  connection.update_peer_credit(request);
  return connection;
}

Connection Connection::requested() {
  return Connection(State::kRequested, kRequest);
}

Connection::Verdict Connection::receive(const Packet& packet) {
  if (packet.operation == spec::kVsockReset) {
    if (!guest_done_sending_ || buffered().empty()) return Verdict::kEnded;
    state_ = State::kLingering;
    due_ = 0;
    return Verdict::kGoOn;
  }
  if (state_ == State::kRequested) {
    if (packet.operation != spec::kVsockResponse || !update_peer_credit(packet))
      return Verdict::kBroken;
    state_ = State::kEstablished;
    return Verdict::kGoOn;
  }
  if (!update_peer_credit(packet)) return Verdict::kBroken;
  switch (packet.operation) {
    case spec::kVsockReadWrite:
      if (guest_done_sending_ || packet.length > kBufferSize - buffered().size())
        return Verdict::kBroken;
      return Verdict::kPayload;
    case spec::kVsockShutdown:
      if ((packet.flags & spec::kVsockShutdownSend) != 0) guest_done_sending_ = true;
      if ((packet.flags & spec::kVsockShutdownReceive) != 0) guest_done_receiving_ = true;
      return Verdict::kGoOn;
    case spec::kVsockCreditUpdate:
      return Verdict::kGoOn;
    case spec::kVsockCreditRequest:
      due_ |= kCreditUpdate;
      return Verdict::kGoOn;
    default:  // REQUEST and RESPONSE a second time, and what does not exist
      return Verdict::kBroken;
  }
}

// Returns whether the packet's counters are possible.
bool Connection::update_peer_credit(const Packet& packet) {
  const uint32_t in_flight = sent_ - packet.forwarded_count;
  // The guest cannot have consumed what it was not sent.
  if (in_flight > kMaxPeerAllocation) return false;
  peer_allocation_ = std::min(packet.buffer_allocation, kMaxPeerAllocation);
  // Packets of two guest CPUs can overtake each other: an older count is no news, and no crime.
  if (in_flight <= sent_ - peer_forwarded_) peer_forwarded_ = packet.forwarded_count;
  if (credit() > 0) credit_requested_ = false;
  return true;
}

uint32_t Connection::credit() const {
  if (state_ != State::kEstablished || guest_done_receiving_) return 0;
  const uint32_t in_flight = sent_ - peer_forwarded_;
  // The guest may have made its buffer smaller than what is on its way.
  return peer_allocation_ > in_flight ? peer_allocation_ - in_flight : 0;
}

void Connection::starved() {
  if (state_ != State::kEstablished || guest_done_receiving_ || credit_requested_) return;
  credit_requested_ = true;
  due_ |= kCreditRequest;
}

std::span<std::byte> Connection::extend(size_t count) {
  assert(!reader_gone_ && count <= kBufferSize - buffered().size());
  if (buffer_.size() + count > buffer_.capacity()) {
    buffer_.erase(buffer_.begin(), buffer_.begin() + static_cast<ptrdiff_t>(buffer_start_));
    buffer_start_ = 0;
    size_t needed = buffer_.size() + count;
    if (needed > buffer_.capacity())
      buffer_.reserve(std::min<size_t>(kBufferSize, std::max(needed, 2 * buffer_.capacity())));
  }
  buffer_.resize(buffer_.size() + count);
  return std::span(buffer_).last(count);
}

std::span<const std::byte> Connection::buffered() const {
  return std::span(buffer_).subspan(buffer_start_);
}

void Connection::forwarded(size_t count, bool direct) {
  if (!direct) {
    buffer_start_ += count;
    if (buffer_start_ == buffer_.size()) {
      buffer_ = {};  // an idle connection holds no memory
      buffer_start_ = 0;
    }
  }
  count_forwarded(count);
}

void Connection::count_forwarded(size_t count) {
  forwarded_ += static_cast<uint32_t>(count);
  if (is_established() && forwarded_ - told_forwarded_ >= kCreditStep) due_ |= kCreditUpdate;
}

void Connection::reader_gone() {
  if (reader_gone_) return;
  count_forwarded(buffered().size());
  buffer_ = {};
  buffer_start_ = 0;
  reader_gone_ = true;
  if (!is_lingering()) due_ |= kShutdown;
}

void Connection::writer_gone() {
  if (writer_gone_) return;
  writer_gone_ = true;
  if (!is_lingering()) due_ |= kShutdown;
}

std::optional<Packet> Connection::next_control() {
  if (is_finished()) return Packet{.operation = spec::kVsockReset};
  auto take = [this](Due due) {
    // Before the guest has answered the REQUEST, nothing else may follow it.
    if (state_ == State::kRequested && due != kRequest) return false;
    bool is_due = (due_ & due) != 0;
    due_ = static_cast<uint8_t>(due_ & ~due);
    return is_due;
  };
  if (take(kRequest)) return Packet{.operation = spec::kVsockRequest};
  if (take(kResponse)) return Packet{.operation = spec::kVsockResponse};
  if (take(kCreditUpdate)) return Packet{.operation = spec::kVsockCreditUpdate};
  if (take(kCreditRequest)) return Packet{.operation = spec::kVsockCreditRequest};
  if (take(kShutdown))
    return Packet{.operation = spec::kVsockShutdown,
                  .flags = (reader_gone_ ? spec::kVsockShutdownReceive : 0) |
                           (writer_gone_ ? spec::kVsockShutdownSend : 0)};
  return std::nullopt;
}

void Connection::stamp(Packet& packet) {
  packet.buffer_allocation = kBufferSize;
  packet.forwarded_count = forwarded_;
  told_forwarded_ = forwarded_;
  due_ = static_cast<uint8_t>(due_ & ~kCreditUpdate);
}

}  // namespace hutch::virtio::vsock
