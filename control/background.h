// Work that waits for a disk, on threads of its own: the program's one thread must not.
#pragma once

#include <boost/asio/io_context.hpp>
#include <functional>
#include <memory>

namespace hutch::control {

class Background {
 public:
  // `context` must outlive it.
  explicit Background(boost::asio::io_context& context);
  // Waits for all work; what was to be done after it is left out.
  ~Background();
  Background(const Background&) = delete;
  Background& operator=(const Background&) = delete;

  // Runs `work`, which throws nothing, on a thread, and then `done` in the context. When the host
  // has no thread, `work` is done before this returns.
  void run(std::function<void()> work, std::function<void()> done);

 private:
  struct Shared;
  boost::asio::io_context& context_;
  std::shared_ptr<Shared> shared_;
};

}  // namespace hutch::control
