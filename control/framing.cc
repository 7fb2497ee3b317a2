#include "control/framing.h"

#include <algorithm>

namespace hutch::control {
namespace {

constexpr uint32_t kMore = uint32_t{1} << 31;

}  // namespace

std::array<std::byte, kPieceHead> piece_head(size_t size, bool more) {
  uint32_t head = static_cast<uint32_t>(size) | (more ? kMore : 0);
  return {static_cast<std::byte>(head), static_cast<std::byte>(head >> 8),
          static_cast<std::byte>(head >> 16), static_cast<std::byte>(head >> 24)};
}

bool PieceReader::feed(std::string_view bytes, const Part& part) {
  while (!bytes.empty() && !broken_) {
    if (left_ == 0) {
      head_[head_size_++] = static_cast<unsigned char>(bytes.front());
      bytes.remove_prefix(1);
      if (head_size_ < kPieceHead) continue;
      head_size_ = 0;
      uint32_t head = static_cast<uint32_t>(head_[0]) | static_cast<uint32_t>(head_[1]) << 8 |
                      static_cast<uint32_t>(head_[2]) << 16 | static_cast<uint32_t>(head_[3]) << 24;
      more_ = (head & kMore) != 0;
      left_ = head & ~kMore;
      message_ += left_;
      broken_ = left_ == 0 || left_ > kMaxPiece || message_ > kMaxMessageFromGuest;
      continue;
    }
    std::string_view taken = bytes.substr(0, std::min<uint64_t>(left_, bytes.size()));
    bytes.remove_prefix(taken.size());
    left_ -= taken.size();
    bool last = left_ == 0 && !more_;
    if (last) message_ = 0;
    part(taken, last);
  }
  return !broken_;
}

}  // namespace hutch::control
