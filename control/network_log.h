// The event log of a sandbox's network, as the broker writes it (event-log/), read by clients: in
// the data folder, one file a sandbox, kept after its end.
#pragma once

#include <boost/asio/io_context.hpp>
#include <chrono>
#include <functional>
#include <string>

#include "base/fd.h"

namespace hutch::control {

class NetworkLogs {
 public:
  // In `folder`, which is made when it is missing.
  explicit NetworkLogs(std::string folder) : folder_(std::move(folder)) {}

  // The log of a new sandbox, for reading and appending. Throws a Problem.
  Fd create(const std::string& sandbox_id) const;

  // Whole lines from byte `from` on, at most kMaxPart bytes; empty when there are none. Throws a
  // Problem when `from` lies behind the log's end, or there is no log: it has no network.
  std::string read(const std::string& sandbox_id, uint64_t from) const;
  // Calls `done` once when the log may have grown past byte `size`, or its writer has closed it, or
  // `time` has passed; later, never from inside this call.
  void wait(boost::asio::io_context& context, const std::string& sandbox_id, uint64_t size,
            std::chrono::seconds time, std::function<void()> done) const;

  static constexpr size_t kMaxPart = 256 * 1024;

 private:
  std::string path(const std::string& sandbox_id) const;

  std::string folder_;
};

}  // namespace hutch::control
