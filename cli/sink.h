// Sink: standard output or error as a destination that never holds the program up.
//
// The descriptor is shared with other programs, so it is never switched to non-blocking. A pipe or
// terminal is opened a second time for that; a socket is written with MSG_DONTWAIT; a file is
// written directly. What cannot be opened again is written in parts that fit once it polls
// writable.
#pragma once

#include <deque>
#include <span>
#include <vector>

#include "base/fd.h"
#include "cli/handles.h"

namespace hutch::cli {

class Sink {
 public:
  explicit Sink(int fd);

  // Queues what an OUTPUT event holds; the event is freed, and its credit returned, when all of it
  // has been written.
  void push(EventHandle event);
  void push(std::vector<std::byte> bytes);
  // Writes what can be without waiting.
  void flush();
  // The descriptor to poll for writing while !is_empty().
  int poll_fd() const { return reopened_ ? reopened_.get() : fd_; }
  bool is_empty() const { return queue_.empty(); }
  size_t queued_bytes() const;
  // The reader is gone; everything is discarded since then.
  bool is_broken() const { return broken_; }

 private:
  enum class Mode { kDirect, kReopened, kSocket, kSmallParts };
  struct Piece {
    EventHandle event;
    std::vector<std::byte> bytes;
    size_t done = 0;
    std::span<const std::byte> rest() const;
  };
  // How many bytes went; 0: would wait.
  size_t write_some(std::span<const std::byte> bytes);

  const int fd_;
  Mode mode_ = Mode::kDirect;
  Fd reopened_;
  std::deque<Piece> queue_;
  bool broken_ = false;
};

}  // namespace hutch::cli
