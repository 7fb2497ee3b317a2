#include "base/fd.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>

namespace hutch {

Fd& Fd::operator=(Fd&& other) noexcept {
  if (this != &other) {
    reset();
    fd_ = std::exchange(other.fd_, -1);
  }
  return *this;
}

void Fd::reset() {
  if (fd_ >= 0) {
    // The descriptor is gone whatever close() answers; a retry could close somebody else's.
    ::close(fd_);
    fd_ = -1;
  }
}

Result<Fd> Fd::duplicate() const {
  int copy = ::fcntl(fd_, F_DUPFD_CLOEXEC, 3);
  if (copy < 0) return fail_errno(errno, "duplicating a file descriptor");
  return Fd(copy);
}

Result<EventFd> EventFd::create() {
  Fd fd(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (!fd) return fail_errno(errno, "creating an eventfd");
  return EventFd(std::move(fd));
}

void EventFd::signal() const {
  uint64_t one = 1;
  // EAGAIN means that the counter is full: the waiter is already due to wake.
  [[maybe_unused]] ssize_t written = ::write(fd_.get(), &one, sizeof one);
}

uint64_t EventFd::drain() const {
  uint64_t count = 0;
  return ::read(fd_.get(), &count, sizeof count) == static_cast<ssize_t>(sizeof count) ? count : 0;
}

}  // namespace hutch
