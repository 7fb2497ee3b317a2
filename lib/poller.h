// Poller: the one descriptor that a handle shows its user. It polls readable while a watched
// descriptor is ready, a deadline has passed or wake() was called.
#pragma once

#include <cstdint>
#include <vector>

#include "base/fd.h"

namespace hutch::lib {

class Poller {
 public:
  static Result<Poller> create();

  int get() const { return epoll_.get(); }
  // Watches `fd` for epoll's `events`; `tag` names it in ready(). The descriptor must be unwatched
  // before it is closed.
  Result<void> watch(int fd, uint32_t events, uint32_t tag);
  void modify(int fd, uint32_t events, uint32_t tag);
  void unwatch(int fd);

  // Makes the descriptor readable until the next ready().
  void wake() { wake_.signal(); }
  // Makes it readable at `due` (nanoseconds of CLOCK_MONOTONIC); 0: never.
  void set_deadline(uint64_t due);

  struct Ready {
    uint32_t tag;
    uint32_t events;
  };
  // What is ready now, without waiting. Passed deadlines are for the caller to compare.
  std::vector<Ready> ready();

 private:
  Poller(Fd epoll, EventFd wake, Fd timer)
      : epoll_(std::move(epoll)), wake_(std::move(wake)), timer_(std::move(timer)) {}
  Fd epoll_;
  EventFd wake_;
  Fd timer_;
  uint64_t due_ = 0;
};

}  // namespace hutch::lib
