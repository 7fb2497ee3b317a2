// Fd: owns one file descriptor. EventFd: a counter that one thread raises and another waits on.
#pragma once

#include <cstdint>
#include <utility>

#include "base/result.h"

namespace hutch {

// Owns a descriptor and closes it. Movable; a raw `int fd` may be a parameter, never a member.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept;
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd() { reset(); }

  int get() const { return fd_; }
  bool is_open() const { return fd_ >= 0; }
  explicit operator bool() const { return is_open(); }
  // Gives the descriptor up without closing it.
  int release() { return std::exchange(fd_, -1); }
  void reset();
  // A second descriptor for the same open file, close-on-exec.
  Result<Fd> duplicate() const;

 private:
  int fd_ = -1;
};

// A non-blocking eventfd. signal() and drain() may be called by any thread.
class EventFd {
 public:
  static Result<EventFd> create();

  int get() const { return fd_.get(); }
  void signal() const;
  // Takes the count back to zero; returns what it was, 0 when it was not signalled.
  uint64_t drain() const;

 private:
  explicit EventFd(Fd fd) : fd_(std::move(fd)) {}
  Fd fd_;
};

}  // namespace hutch
