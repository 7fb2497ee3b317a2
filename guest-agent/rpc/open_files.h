// Files that clients hold open, by a number that all connections share. The methods run on workers.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "base/fd.h"
#include "guest-agent/rpc/failure.h"

namespace hutch::agent::rpc {

class OpenFiles {
 public:
  // Takes the parameters, returns the answer as JSON, throws Failure. Any thread. `owner`: the
  // connection of the call.
  using Method = std::string (OpenFiles::*)(Json& params, const void* owner);
  // Null when there is no such method.
  static Method find_method(std::string_view name);
  // Whether the method may wait for other clients for as long as they like.
  static bool may_wait(std::string_view name) { return name == "fileLock"; }

  // The connection has ended: its files are closed, and what it locked is unlocked. Any thread.
  void close_all_of(const void* owner);

 private:
  struct File {
    Fd fd;
    const void* owner;
  };

  std::string add(Fd fd, const void* owner);
  // The file stays open as long as this is held.
  std::shared_ptr<File> find(const Json& params);

  std::string open(Json& params, const void* owner);
  std::string create(Json& params, const void* owner);
  std::string close(Json& params, const void* owner);
  std::string lock(Json& params, const void* owner);
  std::string unlock(Json& params, const void* owner);
  std::string read(Json& params, const void* owner);
  std::string write(Json& params, const void* owner);
  std::string seek(Json& params, const void* owner);
  std::string stat(Json& params, const void* owner);
  std::string sync(Json& params, const void* owner);
  std::string sync_data(Json& params, const void* owner);
  std::string truncate(Json& params, const void* owner);
  std::string change_times(Json& params, const void* owner);

  std::mutex mutex_;
  // Under mutex_:
  std::map<int64_t, std::shared_ptr<File>> files_;
  int64_t next_ = 3;
};

}  // namespace hutch::agent::rpc
