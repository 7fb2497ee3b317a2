// A timer on the clock that counts the time since boot, sleep of the host included (timerfd(2),
// CLOCK_BOOTTIME): asio's own stands still while the host sleeps.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <cstdint>
#include <functional>

namespace hutch::control {

class BootTimer {
 public:
  explicit BootTimer(boost::asio::io_context& context);

  // Calls `action` once boot_ms() is at least `at_ms`; forgets what was set before. `action` may
  // destroy the timer.
  void set(int64_t at_ms, std::function<void()> action);
  void cancel();

 private:
  void wait();

  boost::asio::posix::stream_descriptor timer_;
  std::function<void()> action_;
  uint64_t generation_ = 0;
};

}  // namespace hutch::control
