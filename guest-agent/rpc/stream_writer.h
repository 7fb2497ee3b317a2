// StreamWriter: the end of an outbound stream that a thread writes to, and waits at when it is
// full.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>

#include "guest-agent/rpc/streams.h"

namespace hutch::agent::rpc {

class StreamWriter : public std::enable_shared_from_this<StreamWriter> {
 public:
  // The loop's thread. `on_cancel`, any number of the client's reasons, runs there too; may be
  // empty.
  static std::shared_ptr<StreamWriter> create(Loop& loop, std::shared_ptr<OutboundStream> stream,
                                              std::function<void()> on_cancel = {});

  // One chunk. Waits while the client does not keep up; false when it wants no more. The writing
  // thread.
  bool write(std::string bytes);
  // Whether the client still wants something. Any thread.
  bool is_wanted();
  // Ends the stream, once. The writing thread, or the loop's when none writes any more.
  void end();
  void fail(const Failure& failure);

 private:
  StreamWriter(Loop& loop, std::shared_ptr<OutboundStream> stream)
      : loop_(loop), stream_(std::move(stream)) {}

  Loop& loop_;
  const std::shared_ptr<OutboundStream> stream_;
  std::mutex mutex_;
  std::condition_variable changed_;
  // Under mutex_:
  size_t held_ = 0;
  bool cancelled_ = false;
};

}  // namespace hutch::agent::rpc
