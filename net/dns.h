// Dns: the only resolver that a sandbox has (RFC 1035, EDNS of RFC 6891, errors of RFC 8914). It
// asks nobody: a name that the policy knows has the address that the table gives it, every other
// name does not exist. So no lookup carries data out of the sandbox.
//
// The net thread only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/token_bucket.h"
#include "net/name_table.h"
#include "policy/policy.h"

namespace hutch::net {

class Dns {
 public:
  struct Counters {
    uint64_t answered = 0;   // with an address
    uint64_t no_data = 0;    // another type of a name that there is
    uint64_t not_there = 0;  // NXDOMAIN
    uint64_t malformed = 0;  // FORMERR, NOTIMP, BADVERS, or no answer at all
    uint64_t throttled = 0;  // SERVFAIL: too many new names
  };
  static constexpr uint32_t kTimeToLive = 60;
  static constexpr uint64_t kNewNamesBurst = 500;
  static constexpr uint64_t kNewNamesPerSecond = 10;

  // Policy and table outlive it; the policy may change under it. `not_there` is called with each
  // canonical name that was looked up and that the policy does not know. With `ipv6`, names have
  // an address of version 6, too (protocol/guest_network.h).
  Dns(const policy::Policy& policy, NameTable& table,
      std::function<void(const std::string& name)> not_there = {}, bool ipv6 = false);

  // The answer to a message that the guest sent to any server (guest-controlled), without the
  // length that TCP puts before it; at most 512 bytes. Empty: it deserves none.
  std::vector<std::byte> answer(std::span<const std::byte> query, uint64_t now_ns);
  const Counters& counters() const { return counters_; }

 private:
  const policy::Policy& policy_;
  NameTable& table_;
  TokenBucket new_names_{kNewNamesBurst, kNewNamesPerSecond};
  std::function<void(const std::string&)> not_there_;
  const bool ipv6_;
  Counters counters_;
};

}  // namespace hutch::net
