#include "control/boot_timer.h"

#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

namespace hutch::control {
namespace {

int make_timer() {
  int fd = ::timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK | TFD_CLOEXEC);
  if (fd < 0) throw std::system_error(errno, std::generic_category(), "making a timer");
  return fd;
}

}  // namespace

BootTimer::BootTimer(boost::asio::io_context& context) : timer_(context, make_timer()) {}

void BootTimer::set(int64_t at_ms, std::function<void()> action) {
  cancel();
  action_ = std::move(action);
  // Zero would disarm it.
  at_ms = std::max<int64_t>(at_ms, 1);
  itimerspec when{};
  when.it_value.tv_sec = at_ms / 1000;
  when.it_value.tv_nsec = at_ms % 1000 * 1'000'000;
  if (::timerfd_settime(timer_.native_handle(), TFD_TIMER_ABSTIME, &when, nullptr) < 0)
    throw std::system_error(errno, std::generic_category(), "setting a timer");
  wait();
}

void BootTimer::cancel() {
  generation_++;
  action_ = nullptr;
  timer_.cancel();
}

void BootTimer::wait() {
  timer_.async_wait(boost::asio::posix::stream_descriptor::wait_read,
                    [this, generation = generation_](boost::system::error_code error) {
                      if (error || generation != generation_) return;
                      uint64_t count = 0;
                      if (::read(timer_.native_handle(), &count, sizeof count) !=
                          static_cast<ssize_t>(sizeof count))
                        return wait();
                      std::function<void()> action = std::move(action_);
                      action_ = nullptr;
                      action();
                    });
}

}  // namespace hutch::control
