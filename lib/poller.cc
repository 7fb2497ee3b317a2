#include "lib/poller.h"

#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>

namespace hutch::lib {
namespace {
constexpr uint32_t kWakeTag = UINT32_MAX;
constexpr uint32_t kTimerTag = UINT32_MAX - 1;
constexpr uint64_t kSecond = 1'000'000'000;
}  // namespace

Result<Poller> Poller::create() {
  Fd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll) return fail_errno(errno, "creating an epoll descriptor");
  EventFd wake = TRY(EventFd::create());
  Fd timer(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!timer) return fail_errno(errno, "creating a timer");
  Poller poller(std::move(epoll), std::move(wake), std::move(timer));
  TRY(poller.watch(poller.wake_.get(), EPOLLIN, kWakeTag));
  TRY(poller.watch(poller.timer_.get(), EPOLLIN, kTimerTag));
  return poller;
}

Result<void> Poller::watch(int fd, uint32_t events, uint32_t tag) {
  epoll_event event{.events = events, .data = {.u64 = tag}};
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) < 0)
    return fail_errno(errno, "watching a descriptor");
  return {};
}

void Poller::modify(int fd, uint32_t events, uint32_t tag) {
  epoll_event event{.events = events, .data = {.u64 = tag}};
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event);
}

void Poller::unwatch(int fd) {
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

void Poller::set_deadline(uint64_t due) {
  if (due == due_) return;
  due_ = due;
  itimerspec setting{};
  setting.it_value.tv_sec = static_cast<time_t>(due / kSecond);
  setting.it_value.tv_nsec = static_cast<long>(due % kSecond);
  ::timerfd_settime(timer_.get(), TFD_TIMER_ABSTIME, &setting, nullptr);
}

std::vector<Poller::Ready> Poller::ready() {
  std::array<epoll_event, 8> events;
  int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), 0);
  std::vector<Ready> result;
  for (int i = 0; i < count; i++) {
    auto tag = static_cast<uint32_t>(events[static_cast<size_t>(i)].data.u64);
    if (tag == kWakeTag) {
      wake_.drain();
    } else if (tag == kTimerTag) {
      uint64_t expirations;
      // Only to make it unreadable again; the owner compares its deadlines with the clock.
      [[maybe_unused]] ssize_t got = ::read(timer_.get(), &expirations, sizeof expirations);
      due_ = 0;
    } else {
      result.push_back({tag, events[static_cast<size_t>(i)].events});
    }
  }
  return result;
}

}  // namespace hutch::lib
