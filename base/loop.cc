#include "base/loop.h"

#include <algorithm>
#include <array>
#include <cerrno>

namespace hutch {
namespace {
constexpr uint64_t kWakeId = 0;
constexpr int kEventsPerWait = 16;
}  // namespace

Watch& Watch::operator=(Watch&& other) noexcept {
  if (this != &other) {
    reset();
    loop_ = std::exchange(other.loop_, nullptr);
    id_ = std::exchange(other.id_, 0);
  }
  return *this;
}

void Watch::reset() {
  if (loop_ != nullptr) loop_->forget(id_);
  loop_ = nullptr;
}

Result<std::unique_ptr<Loop>> Loop::create() {
  Fd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll) return fail_errno(errno, "creating an epoll descriptor");
  EventFd wake = TRY(EventFd::create());
  epoll_event event{.events = EPOLLIN, .data = {.u64 = kWakeId}};
  if (::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, wake.get(), &event) < 0)
    return fail_errno(errno, "watching the wake-up descriptor of an event loop");
  return std::unique_ptr<Loop>(new Loop(std::move(epoll), std::move(wake)));
}

Loop::Loop(Fd epoll, EventFd wake) : epoll_(std::move(epoll)), wake_(std::move(wake)) {}
Loop::~Loop() = default;

Result<Watch> Loop::watch(int fd, uint32_t events, Callback callback) {
  uint64_t id = next_id_++;
  epoll_event event{.events = events, .data = {.u64 = id}};
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) < 0)
    return fail_errno(errno, fmt::format("watching file descriptor {}", fd));
  entries_[id] = std::make_shared<Entry>(Entry{fd, std::move(callback), {}});
  return Watch(this, id);
}

Result<void> Loop::modify(const Watch& watch, uint32_t events) {
  auto found = entries_.find(watch.id_);
  if (watch.loop_ != this || found == entries_.end()) return fail("this watch has ended");
  epoll_event event{.events = events, .data = {.u64 = watch.id_}};
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, found->second->fd, &event) < 0)
    return fail_errno(errno, "changing a watch");
  return {};
}

Watch Loop::after(std::chrono::nanoseconds delay, Callback callback) {
  uint64_t id = next_id_++;
  entries_[id] = std::make_shared<Entry>(
      Entry{-1, std::move(callback), std::chrono::steady_clock::now() + delay});
  timers_.push_back(id);
  return Watch(this, id);
}

void Loop::forget(uint64_t id) {
  auto found = entries_.find(id);
  if (found == entries_.end()) return;
  if (found->second->fd >= 0) {
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, found->second->fd, nullptr);
  } else {
    std::erase(timers_, id);
  }
  entries_.erase(found);
}

void Loop::post(std::function<void()> function) {
  {
    std::lock_guard lock(posted_mutex_);
    posted_.push_back(std::move(function));
  }
  wake_.signal();
}

void Loop::run_on_loop(const std::function<void()>& function) {
  std::unique_lock lock(posted_mutex_);
  const std::thread::id self = std::this_thread::get_id();
  if (owner_ == self) {
    lock.unlock();
    function();
    return;
  }
  changed_.wait(lock, [&] { return running_ || owner_ == std::thread::id(); });
  if (running_) {
    bool done = false;
    waiting_calls_++;
    posted_.push_back([&] {
      function();
      std::lock_guard done_lock(posted_mutex_);
      waiting_calls_--;
      done = true;
      changed_.notify_all();
    });
    wake_.signal();
    changed_.wait(lock, [&] { return done; });
    return;
  }
  owner_ = self;
  lock.unlock();
  function();
  lock.lock();
  owner_ = std::thread::id();
  changed_.notify_all();
}

// Makes this thread the owner; false when it is already.
bool Loop::enter() {
  std::unique_lock lock(posted_mutex_);
  if (owner_ == std::this_thread::get_id()) return false;
  changed_.wait(lock, [&] { return owner_ == std::thread::id(); });
  owner_ = std::this_thread::get_id();
  running_ = true;
  return true;
}

// Nobody is left waiting for a loop that has ended.
void Loop::leave() {
  std::unique_lock lock(posted_mutex_);
  running_ = false;
  while (waiting_calls_ > 0) {
    lock.unlock();
    run_posted();
    lock.lock();
  }
  owner_ = std::thread::id();
  changed_.notify_all();
}

void Loop::stop() {
  stopping_.store(true, std::memory_order_release);
  wake_.signal();
}

int Loop::next_timeout(int timeout_ms) const {
  auto now = std::chrono::steady_clock::now();
  for (uint64_t id : timers_) {
    auto left = std::chrono::ceil<std::chrono::milliseconds>(entries_.at(id)->due - now).count();
    int bounded = static_cast<int>(std::clamp<int64_t>(left, 0, 1 << 30));
    if (timeout_ms < 0 || bounded < timeout_ms) timeout_ms = bounded;
  }
  return timeout_ms;
}

void Loop::run_posted() {
  std::vector<std::function<void()>> functions;
  {
    std::lock_guard lock(posted_mutex_);
    functions.swap(posted_);
  }
  for (auto& function : functions) function();
}

void Loop::run_timers() {
  auto now = std::chrono::steady_clock::now();
  std::vector<uint64_t> due;
  for (uint64_t id : timers_) {
    if (entries_.at(id)->due <= now) due.push_back(id);
  }
  for (uint64_t id : due) {
    auto found = entries_.find(id);
    if (found == entries_.end()) continue;  // an earlier callback cancelled it
    std::shared_ptr<Entry> entry = found->second;
    forget(id);
    entry->callback(0);
  }
}

int Loop::wait(std::span<epoll_event> events, int timeout_ms) {
  auto look = [&](int limit_ms) {
    return ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), limit_ms);
  };
  auto linger = std::exchange(linger_, {});
  if (timeout_ms != 0 && linger.count() > 0) {
    auto end = std::chrono::steady_clock::now() + linger;
    do {
      if (int count = look(0); count != 0) return count;
    } while (std::chrono::steady_clock::now() < end);
  }
  return look(timeout_ms);
}

Result<void> Loop::step(int timeout_ms) {
  std::array<epoll_event, kEventsPerWait> events;
  int count = wait(events, next_timeout(timeout_ms));
  if (count < 0 && errno != EINTR) return fail_errno(errno, "waiting for events");
  for (int i = 0; i < count; i++) {
    // Copied: the structure is packed, so its members may be misaligned.
    const epoll_event event = events[static_cast<size_t>(i)];
    const uint64_t id = event.data.u64;
    if (id == kWakeId) {
      wake_.drain();
      continue;
    }
    auto found = entries_.find(id);
    if (found == entries_.end()) continue;         // an earlier callback of this round ended it
    std::shared_ptr<Entry> entry = found->second;  // the callback may drop its own watch
    entry->callback(event.events);
  }
  run_timers();
  run_posted();
  return {};
}

Result<void> Loop::run_once(int timeout_ms) {
  bool entered = enter();
  Result<void> result = step(timeout_ms);
  if (entered) leave();
  return result;
}

Result<void> Loop::run() {
  bool entered = enter();
  Result<void> result;
  while (result && !stopping_.load(std::memory_order_acquire)) result = step(-1);
  if (entered) leave();
  return result;
}

}  // namespace hutch
