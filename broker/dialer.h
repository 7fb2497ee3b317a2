// Dialer: connects to the first of several addresses that answers, each begun a little after the
// one before (RFC 8305 section 5).
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "base/fd.h"
#include "base/ip_address.h"
#include "base/loop.h"

namespace hutch::broker {

// Attempts under way; dropping it ends them.
class Dial {
 public:
  struct Connected {
    Fd stream;  // non-blocking, close-on-exec
    IpAddress address;
  };

  // `addresses` have passed the floor. `done` is called once, later, on the loop's thread: with the
  // connection, or without an open descriptor when none answered. It may drop the Dial.
  Dial(Loop& loop, std::vector<IpAddress> addresses, uint16_t port,
       std::function<void(Connected)> done);
  Dial(const Dial&) = delete;
  Dial& operator=(const Dial&) = delete;

  static constexpr std::chrono::milliseconds kDelay{250};
  static constexpr std::chrono::seconds kTimeout{10};

 private:
  struct Attempt {
    Fd socket;
    IpAddress address;
    Watch watch;
  };

  void begin_next();
  bool begin(const IpAddress& address);
  void on_ready(Attempt& attempt);
  void finish(Connected connected);

  Loop& loop_;
  std::vector<IpAddress> addresses_;
  size_t next_ = 0;
  uint16_t port_;
  std::function<void(Connected)> done_;
  std::vector<std::unique_ptr<Attempt>> attempts_;
  Watch delay_;
  Watch timeout_;
};

}  // namespace hutch::broker
