#include "devices/console_buffer.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "base/sys.h"

namespace hutch {
namespace {
// A pipe that polls as writable takes this much without waiting, even when it is a blocking one.
constexpr size_t kWriteAtOnce = 4096;
constexpr uint8_t kEscape = 0x1b;
constexpr uint8_t kBell = 0x07;
}  // namespace

void ConsoleBuffer::pass_on_to(Fd output, uint64_t bytes_per_second,
                               std::function<void()> on_backlog) {
  std::lock_guard lock(mutex_);
  output_ = std::move(output);
  on_backlog_ = std::move(on_backlog);
  rate_ = TokenBucket(bytes_per_second, bytes_per_second);
}

void ConsoleBuffer::write(std::span<const uint8_t> bytes) {
  std::lock_guard lock(mutex_);
  if (output_) pass_on(bytes);
  if (bytes.size() > kCapacity) {
    printed_ += bytes.size() - kCapacity;
    bytes = bytes.last(kCapacity);
  }
  while (!bytes.empty()) {
    size_t start = printed_ % kCapacity;
    size_t count = std::min(bytes.size(), kCapacity - start);
    std::memcpy(ring_.data() + start, bytes.data(), count);
    printed_ += count;
    bytes = bytes.subspan(count);
  }
}

void ConsoleBuffer::pass_on(std::span<const uint8_t> bytes) {
  size_t allowed = rate_.take(bytes.size(), monotonic_ns());
  dropped_ += bytes.size() - allowed;
  bytes = bytes.first(allowed);
  bool waits = !backlog_.empty();
  if (!waits) bytes = bytes.subspan(write_at_once(bytes));
  size_t room = kBacklog - (backlog_.size() - backlog_start_);
  size_t kept = std::min(bytes.size(), room);
  dropped_ += bytes.size() - kept;
  if (kept == 0) return;
  if (backlog_start_ >= kBacklog) {
    backlog_.erase(backlog_.begin(), backlog_.begin() + static_cast<ptrdiff_t>(backlog_start_));
    backlog_start_ = 0;
  }
  backlog_.insert(backlog_.end(), bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(kept));
  if (!waits && on_backlog_) on_backlog_();
}

bool ConsoleBuffer::flush() {
  std::lock_guard lock(mutex_);
  backlog_start_ += write_at_once(std::span(backlog_).subspan(backlog_start_));
  if (backlog_start_ < backlog_.size()) return false;
  backlog_.clear();
  backlog_start_ = 0;
  return true;
}

// Returns how much is done with: nobody waits for a reader that has gone.
size_t ConsoleBuffer::write_at_once(std::span<const uint8_t> bytes) {
  size_t done = 0;
  while (done < bytes.size()) {
    pollfd poll{.fd = output_.get(), .events = POLLOUT, .revents = 0};
    if (::poll(&poll, 1, 0) != 1) break;
    ssize_t count = -1;
    if (poll.revents == POLLOUT)
      count =
          ::write(output_.get(), bytes.data() + done, std::min(bytes.size() - done, kWriteAtOnce));
    if (count < 0 && poll.revents == POLLOUT && (errno == EAGAIN || errno == EINTR)) break;
    if (count <= 0) {
      dropped_ += bytes.size() - done;
      return bytes.size();
    }
    done += static_cast<size_t>(count);
  }
  return done;
}

std::string ConsoleBuffer::tail(size_t lines) const {
  std::vector<uint8_t> bytes;
  {
    std::lock_guard lock(mutex_);
    bytes.reserve(std::min<uint64_t>(printed_, kCapacity));
    for (uint64_t i = printed_ - std::min<uint64_t>(printed_, kCapacity); i < printed_; i++)
      bytes.push_back(ring_[i % kCapacity]);
  }
  std::string text = printable_text(bytes);
  if (lines == 0) return {};
  size_t start = text.size();
  // A final newline ends the last line; it does not begin another.
  if (start > 0 && text[start - 1] == '\n') start--;
  while (start > 0 && (text[start - 1] != '\n' || --lines > 0)) start--;
  return text.substr(start);
}

uint64_t ConsoleBuffer::printed() const {
  std::lock_guard lock(mutex_);
  return printed_;
}
uint64_t ConsoleBuffer::overwritten() const {
  std::lock_guard lock(mutex_);
  return printed_ - std::min<uint64_t>(printed_, kCapacity);
}
uint64_t ConsoleBuffer::dropped() const {
  std::lock_guard lock(mutex_);
  return dropped_;
}

std::string printable_text(std::span<const uint8_t> bytes) {
  enum class State { kText, kEscape, kControlSequence, kString, kStringEscape };
  State state = State::kText;
  std::string text;
  for (uint8_t byte : bytes) {
    switch (state) {
      case State::kText:
        if (byte == kEscape) {
          state = State::kEscape;
        } else if (byte >= 0x20 && byte < 0x7f) {
          text += static_cast<char>(byte);
        } else if (byte == '\n' || byte == '\t') {
          text += static_cast<char>(byte);
        } else if (byte >= 0x80) {
          text += '?';
        }
        break;
      case State::kEscape:
        if (byte == '[') {
          state = State::kControlSequence;
        } else if (byte == ']' || byte == 'P' || byte == 'X' || byte == '^' || byte == '_') {
          state = State::kString;
        } else if (byte >= 0x30 || byte < 0x20) {  // intermediate bytes are 0x20 to 0x2f
          state = byte == kEscape ? State::kEscape : State::kText;
        }
        break;
      case State::kControlSequence:
        if (byte >= 0x40 || byte < 0x20) state = State::kText;  // the final byte, or a broken one
        break;
      case State::kString:
        // Ends with BEL or ESC '\'; a line's end too, so that one ESC cannot hide all that follows.
        if (byte == kEscape) {
          state = State::kStringEscape;
        } else if (byte == kBell) {
          state = State::kText;
        } else if (byte == '\n') {
          state = State::kText;
          text += '\n';
        }
        break;
      case State::kStringEscape:
        state = byte == '\\' ? State::kText : State::kString;
        break;
    }
  }
  return text;
}

}  // namespace hutch
