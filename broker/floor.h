// Floor: the addresses that no sandbox may reach, whatever its policy says: those that are not of
// the open Internet (policy/address_floor.h), and this host's own. Only the operator can open some.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/ip_address.h"
#include "base/result.h"
#include "broker/host_addresses.h"

namespace hutch::broker {

class Floor {
 public:
  // `opened`: blocks that the operator lets sandboxes reach, such as "10.1.0.0/16" or "fd00::/8".
  static Result<Floor> create(const std::vector<std::string>& opened);

  // Why the address must not be connected to, in a word or two; empty: it may. This
  // host's addresses are those that it has now; when the kernel does not tell, nothing may.
  std::string reason(const IpAddress& address) const;

 private:
  struct Block {
    IpAddress prefix;
    unsigned bits = 0;
  };
  std::vector<Block> opened_;
  std::unique_ptr<HostAddresses> own_ = std::make_unique<HostAddresses>();
};

}  // namespace hutch::broker
