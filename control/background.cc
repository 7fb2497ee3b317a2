#include "control/background.h"

#include <boost/asio/post.hpp>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

#include "base/log.h"

namespace hutch::control {

struct Background::Shared {
  std::mutex mutex;
  std::condition_variable changed;
  int count = 0;         // threads
  bool is_over = false;  // the object is gone
};

Background::Background(boost::asio::io_context& context)
    : context_(context), shared_(std::make_shared<Shared>()) {}

Background::~Background() {
  std::unique_lock lock(shared_->mutex);
  shared_->is_over = true;
  shared_->changed.wait(lock, [this] { return shared_->count == 0; });
}

void Background::run(std::function<void()> work, std::function<void()> done) {
  auto task = [&context = context_, shared = shared_,
               work = std::make_shared<std::function<void()>>(std::move(work)),
               done = std::move(done)] {
    (*work)();
    *work = nullptr;
    // Looked at in the context's thread, where the object ends.
    boost::asio::post(context, [shared, done] {
      if (!shared->is_over) done();
    });
    std::lock_guard end(shared->mutex);
    shared->count--;
    shared->changed.notify_all();
  };
  {
    std::lock_guard lock(shared_->mutex);
    shared_->count++;
  }
  try {
    std::thread(task).detach();
  } catch (const std::system_error& error) {
    log_warning("the host has no thread ({}): everything waits for a disk", error.what());
    task();
  }
}

}  // namespace hutch::control
