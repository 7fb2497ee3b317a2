#include "cli/sink.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <limits.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/sys.h"
#include "cli/failure.h"

namespace hutch::cli {

Sink::Sink(int fd) : fd_(fd) {
  struct stat status {};
  if (::fstat(fd, &status) < 0) {
    broken_ = true;  // closed by whoever started us
    return;
  }
  if (S_ISSOCK(status.st_mode)) {
    mode_ = Mode::kSocket;
  } else if (S_ISFIFO(status.st_mode) || (S_ISCHR(status.st_mode) && ::isatty(fd) == 1)) {
    Result<Fd> again =
        open_file(fmt::format("/proc/self/fd/{}", fd), O_WRONLY | O_NONBLOCK | O_NOCTTY);
    if (again) reopened_ = std::move(*again);
    mode_ = again ? Mode::kReopened : Mode::kSmallParts;
  }
}

std::span<const std::byte> Sink::Piece::rest() const {
  std::span<const std::byte> all =
      event ? std::span(static_cast<const std::byte*>(event->data), event->data_size)
            : std::span<const std::byte>(bytes);
  return all.subspan(done);
}

void Sink::push(EventHandle event) {
  if (!broken_) queue_.push_back({.event = std::move(event), .bytes = {}, .done = 0});
}

void Sink::push(std::vector<std::byte> bytes) {
  if (!broken_ && !bytes.empty())
    queue_.push_back({.event = {}, .bytes = std::move(bytes), .done = 0});
}

size_t Sink::queued_bytes() const {
  size_t sum = 0;
  for (const Piece& piece : queue_) sum += piece.rest().size();
  return sum;
}

size_t Sink::write_some(std::span<const std::byte> bytes) {
  for (;;) {
    ssize_t count = 0;
    if (mode_ == Mode::kSocket) {
      count = ::send(fd_, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    } else if (mode_ == Mode::kSmallParts) {
      // A pipe that polls writable has room for PIPE_BUF bytes.
      pollfd poll{.fd = fd_, .events = POLLOUT, .revents = 0};
      if (::poll(&poll, 1, 0) == 0) return 0;
      count = ::write(fd_, bytes.data(), std::min<size_t>(bytes.size(), PIPE_BUF));
    } else {
      count = ::write(poll_fd(), bytes.data(), bytes.size());
    }
    if (count >= 0) return static_cast<size_t>(count);
    if (errno == EINTR) continue;
    if (errno == EAGAIN) return 0;
    if (errno != EPIPE && errno != ECONNRESET && errno != EIO)
      throw Failure(fail_errno(errno, fd_ == STDOUT_FILENO ? "writing standard output"
                                                           : "writing standard error")
                        .value());
    broken_ = true;
    queue_.clear();
    return 0;
  }
}

void Sink::flush() {
  while (!queue_.empty()) {
    Piece& piece = queue_.front();
    size_t count = write_some(piece.rest());
    if (count == 0) return;
    piece.done += count;
    if (piece.rest().empty()) queue_.pop_front();
  }
}

}  // namespace hutch::cli
