// Resolver: the addresses of a name, from DNS servers and from nowhere else: no hosts file, no
// search domains, no name services of the host (getaddrinfo would ask them, and take 127.1 for an
// address).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/ip_address.h"
#include "base/loop.h"
#include "base/result.h"

namespace hutch::broker {

// A question under way; dropping it means that its answer is not wanted any more.
class Question {
 public:
  virtual ~Question() = default;
};

class Resolver {
 public:
  virtual ~Resolver() = default;
  // Asks for the addresses of a canonical name, in the order to try them in. `done` is called once,
  // later, on the loop's thread, with none when the name has none or nobody answered.
  virtual std::unique_ptr<Question> resolve(const std::string& name,
                                            std::function<void(std::vector<IpAddress>)> done) = 0;
};

// With c-ares, for addresses of version 4, and with `ipv6` of both. `servers` are addresses, each
// with or without :port; empty: those of /etc/resolv.conf now.
Result<std::unique_ptr<Resolver>> make_dns_resolver(Loop& loop,
                                                    const std::vector<std::string>& servers,
                                                    bool ipv6 = false);

}  // namespace hutch::broker
