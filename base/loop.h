// Loop: one thread's epoll loop. Descriptors, timers and posted functions run on that thread only.
#pragma once

#include <sys/epoll.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/fd.h"

namespace hutch {

class Loop;

// A registration; dropping it ends the watch. Must be dropped on the loop's thread, before the
// loop.
class Watch {
 public:
  Watch() = default;
  Watch(Watch&& other) noexcept
      : loop_(std::exchange(other.loop_, nullptr)), id_(std::exchange(other.id_, 0)) {}
  Watch& operator=(Watch&& other) noexcept;
  ~Watch() { reset(); }
  void reset();
  bool is_active() const { return loop_ != nullptr; }

 private:
  friend class Loop;
  Watch(Loop* loop, uint64_t id) : loop_(loop), id_(id) {}
  Loop* loop_ = nullptr;
  uint64_t id_ = 0;
};

class Loop {
 public:
  using Callback = std::function<void(uint32_t events)>;

  static Result<std::unique_ptr<Loop>> create();
  ~Loop();
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;

  // Calls `callback` with epoll's events whenever `fd` has one of `events` (EPOLLIN, EPOLLOUT,
  // ...), level-triggered. The descriptor stays the caller's and must stay open while watched.
  Result<Watch> watch(int fd, uint32_t events, Callback callback);
  // Changes what a watch waits for; 0 pauses it.
  Result<void> modify(const Watch& watch, uint32_t events);
  // Calls `callback` (with 0) once, after `delay`. Dropping the Watch cancels it.
  Watch after(std::chrono::nanoseconds delay, Callback callback);
  // More is about to come: once the callbacks at hand are done, the loop looks for it again and
  // again for this long before it sleeps. For data that keeps coming: to wake a thread costs
  // whoever sends it more than the thread saves by sleeping. On the loop's thread.
  void linger(std::chrono::nanoseconds time) { linger_ = std::max(linger_, time); }
  // Runs `function` on the loop's thread, in order. Any thread.
  void post(std::function<void()> function);
  // Runs `function` where it may touch what belongs to this loop, and returns when it has run:
  // directly on the loop's thread; from another thread while the loop runs, on the loop's thread
  // after what was posted before; while no thread runs the loop, on the caller's, with nobody
  // else in the loop. Any thread, but never one that the loop's thread is waiting for.
  void run_on_loop(const std::function<void()>& function);

  // Runs until stop(). Only one thread, always the same one.
  Result<void> run();
  // Waits for at most `timeout_ms` (-1: for ever) and runs what is due once.
  Result<void> run_once(int timeout_ms);
  // Ends run() after the callbacks at hand. Any thread.
  void stop();

 private:
  friend class Watch;
  struct Entry {
    int fd = -1;  // -1: a timer
    Callback callback;
    std::chrono::steady_clock::time_point due{};
  };

  Loop(Fd epoll, EventFd wake);
  void forget(uint64_t id);
  bool enter();
  void leave();
  Result<void> step(int timeout_ms);
  int wait(std::span<epoll_event> events, int timeout_ms);
  int next_timeout(int timeout_ms) const;
  void run_posted();
  void run_timers();

  Fd epoll_;
  EventFd wake_;
  std::unordered_map<uint64_t, std::shared_ptr<Entry>> entries_;
  std::vector<uint64_t> timers_;
  uint64_t next_id_ = 1;
  std::chrono::nanoseconds linger_{0};
  std::mutex posted_mutex_;
  std::condition_variable changed_;
  // Under posted_mutex_:
  std::vector<std::function<void()>> posted_;
  std::thread::id owner_;     // the thread that may touch the loop's objects now; none: nobody does
  bool running_ = false;      // the owner will run what is posted
  size_t waiting_calls_ = 0;  // of run_on_loop, among posted_
  std::atomic<bool> stopping_{false};
};

}  // namespace hutch
