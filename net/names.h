// Names: what a sandbox's policy says about names and addresses, as the network asks for it.
//
// The network's loop only.
#pragma once

#include <functional>
#include <string>

#include "net/decisions.h"
#include "net/dns.h"
#include "net/flow_opener.h"
#include "net/name_table.h"
#include "policy/policy.h"

namespace hutch::net {

class Names final : public NameLookup, public LiteralPolicy, public DnsResponder {
 public:
  // `denied` is told of each lookup that found no name (port 0, no address) and of each connection
  // to an address that was refused; what it is told of is guest-controlled.
  using Denied = std::function<void(const FlowTarget& target)>;

  // With `ipv6`, names have an address of version 6, too.
  explicit Names(policy::Policy policy, Denied denied = {}, bool ipv6 = false)
      : policy_(std::move(policy)), denied_(std::move(denied)), ipv6_(ipv6) {}

  // From now on this is the policy. Names that it does not know are none any more; flows that it
  // does not allow are the caller's to cut (allows()).
  void set_policy(policy::Policy policy) { policy_ = std::move(policy); }
  // Whether a flow to this target may be, as of now.
  bool allows(const FlowTarget& target) const;

  std::optional<std::string> find(const IpAddress& address) override;
  void hold(const IpAddress& address) override;
  void release(const IpAddress& address) override;
  bool allows(const IpAddress& address, uint16_t port) override;
  std::optional<std::vector<std::byte>> answer(std::span<const std::byte> query,
                                               size_t limit) override;

  const Dns::Counters& dns_counters() const { return dns_.counters(); }
  NameTable& table() { return table_; }
  const NameTable& table() const { return table_; }

 private:
  bool allows_literal(const IpAddress& address, uint16_t port) const;

  policy::Policy policy_;
  Denied denied_;
  bool ipv6_;
  NameTable table_;
  Dns dns_{policy_, table_,
           [this](const std::string& name) {
             if (denied_) denied_({name, {}, 0});
           },
           ipv6_};
};

}  // namespace hutch::net
