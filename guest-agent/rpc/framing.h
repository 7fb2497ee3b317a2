// Framing of the service's pipes: a message is one or more pieces, a piece is a 32-bit
// little-endian number and bytes. Bit 31 of the number says that more pieces follow, the rest is
// the count of bytes, 1 to 1 MiB. So neither side has to hold a message to pass it on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>

namespace hutch::agent::rpc {

constexpr uint32_t kMaxPiece = 1 << 20;
constexpr size_t kMaxMessageIn = size_t{160} << 20;
constexpr size_t kMaxMessageOut = size_t{96} << 20;

class MessageReader {
 public:
  // Takes bytes off the front of `input` and returns a message when one is complete; nothing when
  // all of `input` was taken without completing one. Throws std::runtime_error for an empty or too
  // large piece and for a message above kMaxMessageIn; the stream is of no use then.
  std::optional<std::string> next(std::string_view& input);

 private:
  std::string header_;
  uint32_t left_ = 0;  // of the piece
  bool more_ = false;
  std::string message_;
};

// Messages on their way out.
class MessageQueue {
 public:
  // `message` is not empty.
  void push(std::string message);
  bool empty() const { return messages_.empty(); }
  // Bytes of the messages that are not out yet.
  size_t bytes() const { return bytes_; }
  // Writes what `fd`, non-blocking, takes. Returns false when the reader has gone, or another error
  // leaves nothing to do.
  bool write_to(int fd);

 private:
  void begin_piece();

  std::deque<std::string> messages_;
  size_t bytes_ = 0;
  size_t offset_ = 0;      // in messages_.front()
  std::string header_;     // of the piece under way, what is left of it
  size_t piece_left_ = 0;  // bytes
};

}  // namespace hutch::agent::rpc
