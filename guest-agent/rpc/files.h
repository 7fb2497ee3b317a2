// The methods on paths. Each runs on a worker, for it may block, and returns the answer as JSON.
#pragma once

#include <sys/stat.h>

#include <string>
#include <string_view>

#include "guest-agent/rpc/failure.h"

namespace hutch::agent::rpc {

// Takes the parameters (and may move out of them), returns a document in valid UTF-8, throws
// Failure.
using FileMethod = std::string (*)(Json& params);
// Null when there is no such method.
FileMethod find_file_method(std::string_view name);

// What `stat`, `lstat` and `fileStat` answer; by path (`follow` links or not) or, with an empty
// path, the open file `fd`.
Json file_information(int fd, const std::string& path, bool follow, const std::string& what);
// "OPERATION 'PATH'", behind the text of an error.
std::string on_path(std::string_view operation, std::string_view path);
// The answer of a method, with what is no UTF-8 replaced.
std::string json_text(const Json& value);
// Applies the times of `atime` and `mtime`.
void read_times(const Json& params, timespec (&times)[2]);

}  // namespace hutch::agent::rpc
