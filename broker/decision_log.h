// DecisionLog: what the broker decided, one JSON object a line, each with the SHA-256 of itself and
// of the one before: a line that was changed, left out or put in breaks the chain from there on.
// (Who can rewrite the whole file can rewrite the whole chain; the last hash is worth noting
// elsewhere.)
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/fd.h"
#include "base/result.h"

namespace hutch::broker {

struct Decision {
  const char* event = "";  // "open", "refuse", "close"
  uint32_t flow = 0;
  std::string name;  // empty: an address was asked for
  std::string address;
  uint16_t port = 0;
  std::string rule;    // that allowed it; empty: none
  std::string reason;  // of a refusal; of an opening what is spoken
  uint64_t sent = 0;   // of a closing, bytes from the guest, as the VMM says
  uint64_t received = 0;
};

class DecisionLog {
 public:
  // Goes on with the chain that `file` (open for reading and appending) ends with. An error when
  // its end cannot be read; a broken chain in it is none of this one's business.
  static Result<DecisionLog> open(Fd file);
  // Appends one line, at once. `unix_ms` is the time of day.
  Result<void> write(const Decision& decision, uint64_t unix_ms);

 private:
  DecisionLog(Fd file, std::string last_hash)
      : file_(std::move(file)), last_hash_(std::move(last_hash)) {}
  Fd file_;
  std::string last_hash_;
};

// What is wrong with the chain of a whole log; the number of its lines when nothing is.
Result<uint64_t> verify_decision_log(std::string_view text);

}  // namespace hutch::broker
