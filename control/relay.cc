#include "control/relay.h"

#include <algorithm>

namespace hutch::control {
namespace {

constexpr std::string_view kPing = "ping";

// WebSocket close codes (RFC 6455, 7.4.1).
constexpr uint16_t kPolicyViolation = 1008;
constexpr uint16_t kTooBig = 1009;
constexpr uint16_t kInternalError = 1011;

}  // namespace

void Relay::from_client(std::string_view bytes, bool last) {
  if (closed_) return;
  client_size_ += bytes.size();
  if (client_size_ > kMaxMessageToGuest) return close(kTooBig, "the message is too long");
  client_scanner_.feed(bytes);
  while (!bytes.empty()) {
    // A message that is no longer than `ping` waits for its end.
    if (piece_.size() == kMaxPiece) queue_piece(true);
    size_t taken = std::min(bytes.size(), kMaxPiece - piece_.size());
    piece_.append(bytes.substr(0, taken));
    bytes.remove_prefix(taken);
  }
  if (last) return end_client_message();
  if (client_size_ > kPing.size()) queue_piece(true);
}

void Relay::end_client_message() {
  if (client_size_ == kPing.size() && piece_ == kPing) {
    piece_.clear();
    output_.send_pong();
  } else if (client_size_ > 0) {
    // A piece is never empty, and the one before said that more follows.
    if (piece_.empty()) piece_.push_back(' ');
    if (!messages_.note_client(client_scanner_.id(), client_scanner_.method(),
                               client_scanner_.stream_id()))
      return close(kPolicyViolation, "too many calls are under way");
    queue_piece(false);
  }
  client_size_ = 0;
  client_scanner_ = JsonScanner();
}

void Relay::queue_piece(bool more) {
  if (piece_.empty()) return;
  auto head = piece_head(piece_.size(), more);
  to_guest_.append(reinterpret_cast<const char*>(head.data()), head.size());
  to_guest_ += piece_;
  piece_.clear();
}

void Relay::wrote(size_t count) {
  written_ += count;
  if (written_ < to_guest_.size()) return;
  to_guest_.clear();
  written_ = 0;
}

void Relay::from_guest(std::string_view bytes) {
  if (closed_) return;
  bool good = reader_.feed(bytes, [this](std::string_view part, bool last) {
    if (!closed_) guest_part(part, last);
  });
  if (!good) close(kInternalError, "the sandbox broke the protocol");
}

void Relay::guest_part(std::string_view bytes, bool last) {
  if (long_ == Long::kDropping) {
    if (last) long_ = Long::kNo;
    return;
  }
  if (long_ == Long::kPassing) return long_part(bytes, last);
  if (held_.size() + bytes.size() > kHold) {
    held_ += bytes;
    if (!messages_.check_long(held_)) {
      dropped_++;
      held_ = std::string();
      long_ = last ? Long::kNo : Long::kDropping;
      return;
    }
    long_ = Long::kPassing;
    long_scanner_ = JsonScanner();
    std::string all = std::move(held_);
    held_ = std::string();
    return long_part(all, last);
  }
  held_ += bytes;
  if (!last) return;
  switch (messages_.check(held_)) {
    case GuestMessages::Verdict::kPass:
      output_.send_part(std::move(held_), true);
      break;
    case GuestMessages::Verdict::kDrop:
      dropped_++;
      break;
    case GuestMessages::Verdict::kLate:
      break;
    case GuestMessages::Verdict::kBreach:
      close(kInternalError, "the sandbox broke the protocol");
      break;
  }
  held_ = std::string();
}

void Relay::long_part(std::string_view bytes, bool last) {
  bool good = long_scanner_.feed(bytes);
  if (good && last)
    good = long_scanner_.is_complete() &&
           messages_.finish_long(long_scanner_.outer_members(), long_scanner_.inner_members());
  // The client has a part of it already: only the end of the connection takes that back.
  if (!good) return close(kInternalError, "the sandbox broke the protocol");
  if (last) long_ = Long::kNo;
  output_.send_part(std::string(bytes), last);
}

void Relay::close(uint16_t code, std::string_view reason) {
  if (closed_) return;
  closed_ = true;
  to_guest_.clear();
  written_ = 0;
  output_.close(code, reason);
}

}  // namespace hutch::control
