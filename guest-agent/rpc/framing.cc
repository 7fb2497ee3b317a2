#include "guest-agent/rpc/framing.h"

#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "base/wire.h"

namespace hutch::agent::rpc {
namespace {
constexpr uint32_t kMore = uint32_t{1} << 31;
}

std::optional<std::string> MessageReader::next(std::string_view& input) {
  while (!input.empty()) {
    if (left_ == 0) {
      size_t count = std::min(sizeof(le32) - header_.size(), input.size());
      header_.append(input.substr(0, count));
      input.remove_prefix(count);
      if (header_.size() < sizeof(le32)) break;
      le32 number;
      std::memcpy(&number, header_.data(), sizeof number);
      header_.clear();
      more_ = (number & kMore) != 0;
      left_ = number & ~kMore;
      if (left_ == 0 || left_ > kMaxPiece)
        throw std::runtime_error("a piece of " + std::to_string(left_) + " bytes");
      if (message_.size() + left_ > kMaxMessageIn)
        throw std::runtime_error("a message of more than " + std::to_string(kMaxMessageIn) +
                                 " bytes");
    }
    size_t count = std::min<size_t>(left_, input.size());
    message_.append(input.substr(0, count));
    input.remove_prefix(count);
    left_ -= static_cast<uint32_t>(count);
    if (left_ == 0 && !more_) return std::exchange(message_, {});
  }
  return std::nullopt;
}

void MessageQueue::push(std::string message) {
  bytes_ += message.size();
  messages_.push_back(std::move(message));
}

void MessageQueue::begin_piece() {
  size_t left = messages_.front().size() - offset_;
  piece_left_ = std::min<size_t>(left, kMaxPiece);
  le32 number = static_cast<uint32_t>(piece_left_) | (left > kMaxPiece ? kMore : 0);
  header_.assign(reinterpret_cast<const char*>(&number), sizeof number);
}

bool MessageQueue::write_to(int fd) {
  while (!messages_.empty()) {
    if (piece_left_ == 0) begin_piece();
    iovec parts[2] = {{header_.data(), header_.size()},
                      {messages_.front().data() + offset_, piece_left_}};
    ssize_t count = ::writev(fd, parts, 2);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return errno == EAGAIN;
    auto written = static_cast<size_t>(count);
    size_t of_header = std::min(written, header_.size());
    header_.erase(0, of_header);
    written -= of_header;
    offset_ += written;
    piece_left_ -= written;
    bytes_ -= written;
    if (piece_left_ == 0 && offset_ == messages_.front().size()) {
      messages_.pop_front();
      offset_ = 0;
    }
  }
  return true;
}

}  // namespace hutch::agent::rpc
