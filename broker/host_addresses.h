// HostAddresses: the addresses that this host has now.
#pragma once

#include <vector>

#include "base/fd.h"
#include "base/ip_address.h"
#include "base/result.h"

namespace hutch::broker {

// Remembers them until the kernel says that one has come or gone (rtnetlink(7)). It says so before
// the call that changes it returns, so that no answer is older than the last change. Where it does
// not tell of changes, it is asked each time.
class HostAddresses {
 public:
  HostAddresses();
  // An error when the kernel does not tell.
  Result<bool> contains(const IpAddress& address);

 private:
  bool have_changed();
  Result<void> read();

  Fd changes_;  // a socket; none: not told
  bool are_read_ = false;
  std::vector<IpAddress> addresses_;
};

}  // namespace hutch::broker
