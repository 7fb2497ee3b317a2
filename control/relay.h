// Relay: between the messages of one WebSocket and the byte streams of one channel, without
// sockets, so that it can be tested and fuzzed alone.
//
// It holds at most kHold bytes of a guest's message, which is checked before the client sees any of
// it; a longer answer passes in parts. Of a client's message it holds one piece.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "control/channel.h"
#include "control/framing.h"
#include "control/guest_messages.h"
#include "control/json_scanner.h"

namespace hutch::control {

// What the relay wants of the WebSocket.
class RelayOutput {
 public:
  // A part of a text message for the client.
  virtual void send_part(std::string bytes, bool last) = 0;
  // The text message `pong`.
  virtual void send_pong() = 0;
  virtual void close(uint16_t code, std::string_view reason) = 0;

 protected:
  ~RelayOutput() = default;
};

class Relay {
 public:
  static constexpr size_t kHold = 1 << 20;

  Relay(uint64_t stream_base, RelayOutput& output) : messages_(stream_base), output_(output) {}

  // A part of a client's message; `last` with its last. What is to go to the guest is in
  // to_guest(). Only when that is empty.
  void from_client(std::string_view bytes, bool last);
  // Bytes for the channel, and that some have been written.
  std::string_view to_guest() const { return std::string_view(to_guest_).substr(written_); }
  void wrote(size_t count);

  // What a channel brought.
  void from_guest(std::string_view bytes);

  bool is_closed() const { return closed_; }
  uint64_t dropped() const { return dropped_; }

 private:
  void end_client_message();
  void queue_piece(bool more);
  void guest_part(std::string_view bytes, bool last);
  void long_part(std::string_view bytes, bool last);
  void close(uint16_t code, std::string_view reason);

  GuestMessages messages_;
  RelayOutput& output_;
  bool closed_ = false;

  // From the client.
  std::string piece_;  // not queued yet, as it may be the last of its message
  uint64_t client_size_ = 0;
  JsonScanner client_scanner_;
  std::string to_guest_;
  size_t written_ = 0;

  // From the guest.
  PieceReader reader_;
  std::string held_;
  enum class Long { kNo, kPassing, kDropping } long_ = Long::kNo;
  JsonScanner long_scanner_;
  uint64_t dropped_ = 0;
};

}  // namespace hutch::control
