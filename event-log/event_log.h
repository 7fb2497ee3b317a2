// EventLog: what happened, one JSON object a line, each with the SHA-256 of itself and of the one
// before: a line that was changed, left out or put in breaks the chain from there on. (Who can
// rewrite the whole file can rewrite the whole chain; the last hash is worth noting elsewhere.)
//
// The broker writes one of its decisions; the server and the command line read it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/fd.h"
#include "base/result.h"

namespace hutch::event_log {

class EventLog {
 public:
  static constexpr size_t kMaxLine = 4096;

  // Goes on with the chain that `file` (open for reading and appending) ends with, up to
  // `max_bytes` in all; 0: as long as there is room. An error when its end cannot be read; a broken
  // chain in it is none of this one's business.
  static Result<EventLog> open(Fd file, uint64_t max_bytes = 0);
  // Appends one line, at once, which begins with `unix_ms`, the time of day, and goes on with
  // `members`: of a JSON object, without braces. An error when it is full: its last line says so.
  Result<void> append(uint64_t unix_ms, std::string_view members);

 private:
  EventLog(Fd file, uint64_t size, uint64_t max_bytes, std::string last_hash)
      : file_(std::move(file)),
        size_(size),
        max_bytes_(max_bytes),
        last_hash_(std::move(last_hash)) {}
  Result<void> write_line(uint64_t unix_ms, std::string_view members);

  Fd file_;
  uint64_t size_;
  uint64_t max_bytes_;
  bool is_full_ = false;
  std::string last_hash_;
};

// As a JSON string. What is not plain ASCII becomes a question mark: it may be guest-controlled,
// and logs are shown on terminals.
std::string quoted(std::string_view text);

// What a whole log proves.
struct Verified {
  uint64_t lines = 0;
  std::string last_hash;  // in hexadecimal; of an empty log all 0
};
// An error says which line is wrong, and how.
Result<Verified> verify(std::string_view text);

}  // namespace hutch::event_log
