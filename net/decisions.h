// What the network's side asks others: names, answers to DNS queries, and which literal addresses
// may be asked for at all. On the network's loop, answered at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/ip_address.h"

namespace hutch::net {

class NameLookup {
 public:
  virtual ~NameLookup() = default;
  // The name that this address was handed out for. Nothing: the address is a literal.
  virtual std::optional<std::string> find(const IpAddress& address) = 0;
  // A flow to the address has begun, one has ended: while there is one, the address keeps its name.
  virtual void hold(const IpAddress&) {}
  virtual void release(const IpAddress&) {}
};

class LiteralPolicy {
 public:
  virtual ~LiteralPolicy() = default;
  // Whether an address without a name may be asked for at this port. `address` and `port` are
  // guest-controlled.
  virtual bool allows(const IpAddress& address, uint16_t port) = 0;
};

class DnsResponder {
 public:
  virtual ~DnsResponder() = default;
  // The answer to a query, of at most `limit` bytes; nothing: none is given. Both are messages of
  // RFC 1035 section 4.1 as they lie behind a UDP header. `query` is guest-controlled.
  virtual std::optional<std::vector<std::byte>> answer(std::span<const std::byte> query,
                                                       size_t limit) = 0;
};

}  // namespace hutch::net
