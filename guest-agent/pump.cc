#include "guest-agent/pump.h"

#include <sys/ioctl.h>
#include <sys/uio.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "base/log.h"
#include "base/sys.h"

namespace hutch::agent {
namespace {

using namespace protocol::agent;  // NOLINT: the wire's names

// One byte of an Output payload is the stream's number.
constexpr size_t kMostPerFrame = kMaxPayload - 1;
// Input credit goes back in pieces of this size: rarely, and long before the host runs dry.
constexpr uint32_t kCreditPiece = kInitialCredit / 4;
// A terminal's driver cannot say how much it holds on its way; this much bounds it: its buffer of
// 64 KiB and the line discipline's page, twice over.
constexpr uint64_t kTerminalHolds = 2 * (64 + 4) * 1024;

}  // namespace

OutputPump::OutputPump(Loop& loop, Outbox& outbox, uint32_t channel, uint8_t stream, bool tells_end,
                       std::function<void()> on_progress)
    : loop_(loop),
      outbox_(outbox),
      channel_(channel),
      stream_(stream),
      tells_end_(tells_end),
      on_progress_(std::move(on_progress)) {}

Result<void> OutputPump::start(Fd source, bool terminal) {
  TRY(set_nonblocking(source.get()));
  terminal_ = terminal;
  source_ = std::move(source);
  update_watch();
  return {};
}

void OutputPump::add_credit(uint32_t bytes) {
  credit_ += bytes;
  resume();
}

void OutputPump::resume() {
  if (!source_) return;
  update_watch();
  if (drains_terminal()) read_some();
}

void OutputPump::restart(uint32_t channel) {
  channel_ = channel;
  credit_ = kInitialCredit;
}

void OutputPump::update_watch() {
  bool wanted = credit_ > 0;
  if (wanted && !outbox_.has_room()) {
    outbox_.wait_for_room(channel_);
    wanted = false;
  }
  // Dropped, not paused: epoll reports a hang-up even to a watch that waits for nothing.
  if (!wanted) {
    watch_.reset();
  } else if (!watch_.is_active()) {
    auto watch = loop_.watch(source_.get(), EPOLLIN, [this](uint32_t) { read_some(); });
    if (!watch) {
      log_error("channel {}: {}", channel_, watch.error().text());
      end();
      return;
    }
    watch_ = *std::move(watch);
  }
}

bool OutputPump::drains_terminal() const {
  return terminal_ && held_at_exit_ > 0 && watch_.is_active();
}

void OutputPump::read_some() {
  // epoll is silent when a terminal has nothing left; only reading tells.
  do {
    read_once();
  } while (drains_terminal());
}

void OutputPump::read_once() {
  static std::array<std::byte, kMaxPayload> payload;  // single-threaded
  payload[0] = static_cast<std::byte>(stream_);
  size_t most = static_cast<size_t>(std::min<uint64_t>(kMostPerFrame, credit_));
  ssize_t count = ::read(source_.get(), payload.data() + 1, most);
  if (count > 0) {
    auto bytes = static_cast<size_t>(count);
    outbox_.send(FrameType::kOutput, channel_, std::span(payload).first(bytes + 1));
    credit_ -= bytes;
    sent_ += bytes;
    update_watch();
    lower_held(bytes);
  } else if (count < 0 && errno == EAGAIN) {
    lower_held(held_at_exit_);
  } else if (count == 0 || errno != EINTR) {
    // End of file; a terminal says so with EIO when the last of its users is gone.
    end();
  }
}

void OutputPump::lower_held(uint64_t bytes) {
  if (held_at_exit_ == 0) return;
  held_at_exit_ -= std::min(held_at_exit_, bytes);
  if (held_at_exit_ == 0) on_progress_();
}

void OutputPump::mark_exit() {
  exited_ = true;
  if (!source_) return;
  int held = 0;
  if (terminal_) {
    held_at_exit_ = kTerminalHolds;
    if (drains_terminal()) read_some();
  } else if (::ioctl(source_.get(), FIONREAD, &held) == 0 && held > 0) {
    held_at_exit_ = static_cast<uint64_t>(held);
  }
}

void OutputPump::end() {
  held_at_exit_ = 0;
  watch_.reset();
  source_.reset();
  if (tells_end_) outbox_.send(FrameType::kOutputEnd, channel_, encode(OutputEnd{stream_}));
  on_progress_();
}

InputPump::InputPump(Loop& loop, Outbox& outbox, uint32_t channel)
    : loop_(loop), outbox_(outbox), channel_(channel) {}

Result<void> InputPump::start(Fd sink, bool terminal) {
  TRY(set_nonblocking(sink.get()));
  sink_ = std::move(sink);
  terminal_ = terminal;
  return write_out();
}

Result<void> InputPump::take(std::vector<std::byte> bytes) {
  if (ended_) return fail(fmt::format("channel {}: input behind its end", channel_));
  if (bytes.size() > credit_)
    return fail(fmt::format("channel {}: {} bytes of input, {} more than granted", channel_,
                            bytes.size(), bytes.size() - credit_));
  if (bytes.empty()) return {};
  credit_ -= bytes.size();
  held_.push_back(std::move(bytes));
  return write_out();
}

Result<void> InputPump::end() {
  if (ended_) return fail(fmt::format("channel {}: its input ended twice", channel_));
  ended_ = true;
  return write_out();
}

void InputPump::restart(uint32_t channel) {
  channel_ = channel;
  watch_.reset();
  held_.clear();
  first_offset_ = 0;
  credit_ = kInitialCredit;
  to_give_ = 0;
}

Result<void> InputPump::write_out() {
  if (!sink_ && !broken_) return {};  // not started
  while (!held_.empty()) {
    std::vector<std::byte>& first = held_.front();
    size_t left = first.size() - first_offset_;
    ssize_t count = static_cast<ssize_t>(left);
    if (!broken_) {
      count = ::write(sink_.get(), first.data() + first_offset_, left);
      if (count < 0 && errno == EINTR) continue;
      if (count < 0 && errno == EAGAIN) return wait_until_writable();
      if (count < 0) {
        // EPIPE or a terminal that hung up: the child does not want it.
        broken_ = true;
        watch_.reset();
        sink_.reset();
        continue;
      }
    }
    last_ = first[first_offset_ + static_cast<size_t>(count) - 1];
    first_offset_ += static_cast<size_t>(count);
    give_credit(static_cast<size_t>(count));
    if (first_offset_ == first.size()) {
      held_.pop_front();
      first_offset_ = 0;
    }
  }
  watch_.reset();
  if (ended_ && sink_) {
    if (terminal_) type_end_of_file();
    sink_.reset();
    broken_ = true;
  }
  return {};
}

Result<void> InputPump::wait_until_writable() {
  if (watch_.is_active()) return {};
  watch_ = TRY(loop_.watch(sink_.get(), EPOLLOUT, [this](uint32_t) {
    auto written = write_out();
    if (!written) log_error("channel {}: {}", channel_, written.error().text());
  }));
  return {};
}

void InputPump::type_end_of_file() {
  termios settings{};
  if (::tcgetattr(sink_.get(), &settings) < 0 || (settings.c_lflag & ICANON) == 0) return;
  // In the middle of a line the first one only hands the line over.
  cc_t key = settings.c_cc[VEOF];
  std::array<cc_t, 2> keys = {key, key};
  size_t count = last_ == std::byte{'\n'} ? 1 : 2;
  if (::write(sink_.get(), keys.data(), count) < 0)
    log_warning("channel {}: typing the end of file: errno {}", channel_, errno);
}

void InputPump::give_credit(size_t bytes) {
  credit_ += bytes;
  to_give_ += static_cast<uint32_t>(bytes);
  if (to_give_ < kCreditPiece) return;
  outbox_.send(FrameType::kInputCredit, channel_, encode(InputCredit{to_give_}));
  to_give_ = 0;
}

}  // namespace hutch::agent
