#include "guest-agent/rpc/workers.h"

#include <thread>

namespace hutch::agent::rpc {

Workers::~Workers() {
  std::unique_lock lock(mutex_);
  stopping_ = true;
  tasks_.clear();
  changed_.notify_all();
  changed_.wait(lock, [&] { return threads_ == 0; });
}

void Workers::run(std::function<void()> job, std::function<void()> then) {
  std::lock_guard lock(mutex_);
  tasks_.push_back({std::move(job), std::move(then)});
  if (idle_ < tasks_.size() && threads_ < limit_) {
    threads_++;
    std::thread([this] { work(); }).detach();
  } else {
    changed_.notify_one();
  }
}

void Workers::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    idle_++;
    changed_.wait(lock, [&] { return stopping_ || !tasks_.empty(); });
    idle_--;
    if (stopping_) break;
    Task task = std::move(tasks_.front());
    tasks_.pop_front();
    lock.unlock();
    task.job();
    loop_.post(std::move(task.then));
    task = {};
    lock.lock();
  }
  threads_--;
  changed_.notify_all();
}

}  // namespace hutch::agent::rpc
