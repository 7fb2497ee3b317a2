// Messages in a byte stream, as the guest's RPC service and its attachments speak them: a message
// is one or more pieces; a piece is a 32-bit little-endian head and its bytes. Bit 31 of the head
// says that more pieces of the message follow, the low 31 bits are the size, 1 byte to 1 MiB.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>

namespace hutch::control {

constexpr size_t kMaxPiece = 1 << 20;
constexpr size_t kPieceHead = 4;
constexpr uint64_t kMaxMessageToGuest = uint64_t{160} << 20;
constexpr uint64_t kMaxMessageFromGuest = uint64_t{96} << 20;

std::array<std::byte, kPieceHead> piece_head(size_t size, bool more);

// Takes the guest's stream apart. Holds nothing but the head that it is in.
class PieceReader {
 public:
  // Gets parts of messages in order; `last` with the last part of each.
  using Part = std::function<void(std::string_view bytes, bool last)>;
  // False when the stream breaks the rules: nothing more can be read from it. `bytes` are
  // guest-controlled.
  bool feed(std::string_view bytes, const Part& part);

 private:
  std::array<unsigned char, kPieceHead> head_{};
  size_t head_size_ = 0;
  uint64_t left_ = 0;     // of the piece, 0: a head comes next
  bool more_ = false;     // pieces of this message follow
  uint64_t message_ = 0;  // bytes of it so far
  bool broken_ = false;
};

}  // namespace hutch::control
