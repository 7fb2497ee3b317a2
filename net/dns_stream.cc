#include "net/dns_stream.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "net/big_endian.h"

namespace hutch::net {

void DnsStream::pump(TcpFlow& flow, uint64_t now_ns) {
  while (!is_over_) {
    if (answered_ < answer_.size()) {
      size_t before = answered_;
      for (std::span<std::byte> room : flow.outgoing_room()) {
        const size_t count = std::min(room.size(), answer_.size() - answered_);
        if (count == 0) continue;
        std::memcpy(room.data(), answer_.data() + answered_, count);
        answered_ += count;
      }
      flow.produced(answered_ - before, now_ns);
      if (answered_ < answer_.size()) return;
    }
    if (!answer_one(flow, now_ns)) break;
  }
  // What is left then is no whole query.
  if (!is_over_ && flow.is_open() && flow.guest_has_ended()) {
    flow.consumed(flow.incoming_size(), now_ns);
    flow.end(TcpFlow::Ending::kFin, now_ns);
    is_over_ = true;
  }
}

// Takes the next query, if all of it is there; false when there is nothing more to do.
bool DnsStream::answer_one(TcpFlow& flow, uint64_t now_ns) {
  std::array<std::byte, sizeof(be16) + kMaxQuery> message;
  size_t size = 0;
  for (std::span<const std::byte> piece : flow.incoming()) {
    const size_t count = std::min(piece.size(), message.size() - size);
    if (count > 0) std::memcpy(message.data() + size, piece.data(), count);
    size += count;
  }
  be16 length;
  if (size < sizeof length) return false;
  std::memcpy(&length, message.data(), sizeof length);
  if (length == 0 || length > kMaxQuery) {
    flow.end(TcpFlow::Ending::kReset, now_ns);
    is_over_ = true;
    return false;
  }
  if (size < sizeof length + length) return false;
  flow.consumed(sizeof length + length, now_ns);
  auto answer = responder_.answer(std::span(message).subspan(sizeof length, length), kMaxAnswer);
  if (!answer || answer->size() > kMaxAnswer) return true;
  answer_.resize(sizeof length + answer->size());
  answered_ = 0;
  length = static_cast<uint16_t>(answer->size());
  std::memcpy(answer_.data(), &length, sizeof length);
  std::memcpy(answer_.data() + sizeof length, answer->data(), answer->size());
  return true;
}

}  // namespace hutch::net
