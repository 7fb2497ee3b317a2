// Names: what a sandbox's policy says about names and addresses, as the network asks for it.
//
// The network's loop only.
#pragma once

#include "net/decisions.h"
#include "net/dns.h"
#include "net/flow_opener.h"
#include "net/name_table.h"
#include "policy/policy.h"

namespace hutch::net {

class Names final : public NameLookup, public LiteralPolicy, public DnsResponder {
 public:
  explicit Names(policy::Policy policy) : policy_(std::move(policy)) {}

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

 private:
  bool allows_literal(const IpAddress& address, uint16_t port) const;

  policy::Policy policy_;
  NameTable table_;
  Dns dns_{policy_, table_};
};

}  // namespace hutch::net
