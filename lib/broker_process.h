// BrokerProcess: the hutch-broker of one machine, as its launcher sees it.
//
// It is started beside the VMM, given the policy and its end of the socket to the VMM, and killed
// with this object. When it dies by itself the VMM refuses and resets everything: no connection is
// there without it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "lib/spawn.h"
#include "protocol/broker.h"

namespace hutch::lib {

struct NetworkOptions {
  protocol::broker::Policy policy;
  std::vector<std::string> opened;  // blocks below the floor that the operator opens
  bool ipv6 = false;
  std::vector<std::string> servers;  // DNS; none: the host's
  Fd log;                            // the event log of decisions; optional
  uint64_t log_limit = 0;            // its most bytes
  std::string broker_path;           // empty: hutch-broker beside hutch-vmm
};

class BrokerProcess {
 public:
  // `vmm` is the broker's end of its socket to the VMM; `log` is for its own log lines, -1: none.
  static Result<std::unique_ptr<BrokerProcess>> start(NetworkOptions options, Fd vmm, int log,
                                                      bool end_with_thread);
  ~BrokerProcess();
  BrokerProcess(const BrokerProcess&) = delete;
  BrokerProcess& operator=(const BrokerProcess&) = delete;

  Result<void> set_policy(const protocol::broker::Policy& policy);
  pid_t process_id() const { return child_.process_id; }

 private:
  BrokerProcess(Child child, Fd control) : child_(std::move(child)), control_(std::move(control)) {}
  Child child_;
  Fd control_;
};

}  // namespace hutch::lib
