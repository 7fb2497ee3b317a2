// Broker: opens the connections of one sandbox. It decides by the same policy as the VMM, as if the
// VMM were the guest: it is the only one that can connect.
//
// A name is resolved here, and here alone, when the guest connects; the floor is held against each
// address; where the policy wants to know what is spoken, the first bytes are read, and only once
// they have named the host they are passed on, and the connection handed to the VMM. Whatever goes
// wrong refuses.
//
// The loop's thread only.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <unordered_map>

#include "base/loop.h"
#include "broker/classify.h"
#include "broker/dialer.h"
#include "broker/floor.h"
#include "broker/resolver.h"
#include "event-log/event_log.h"
#include "policy/policy.h"
#include "protocol/broker.h"

namespace hutch::broker {

class Broker {
 public:
  // Serves the VMM at the other end of `vmm`, a SOCK_SEQPACKET socket. `on_end` is called once when
  // the VMM has gone or breaks the protocol; everything is closed then. `log` may be null.
  Broker(Loop& loop, Fd vmm, policy::Policy policy, const Floor& floor, Resolver& resolver,
         event_log::EventLog* log, std::function<void(std::string reason)> on_end);
  ~Broker();
  Broker(const Broker&) = delete;
  Broker& operator=(const Broker&) = delete;

  Result<void> start();
  // From now on this is the policy. Flows that it does not allow are cut here and now, whatever the
  // VMM does with its end.
  void set_policy(policy::Policy policy);
  size_t flow_count() const { return flows_.size(); }

 private:
  struct Flow;
  using Reason = protocol::broker::Reason;

  void on_event(uint32_t events);
  void on_readable();
  Result<void> handle(std::span<const std::byte> bytes);
  Result<void> open(const protocol::broker::Open& message);
  Result<void> take_first(const protocol::broker::First& message);
  Result<void> close(const protocol::broker::Close& message);
  Result<void> denied(const protocol::broker::Denied& message);
  void dial(Flow& flow, std::vector<IpAddress> addresses);
  void on_dialled(Flow& flow, Dial::Connected connected);
  void look(Flow& flow);
  void pass_on(Flow& flow);
  void refuse(Flow& flow, Reason reason, const std::string& detail);
  void send(std::vector<std::byte> bytes, Fd descriptor = Fd());
  void flush();
  void record(const char* event, const Flow& flow, const std::string& reason);
  void record(const protocol::broker::Close& message, const Flow& flow);
  void record_policy();
  void write(const std::string& members);
  void end(std::string reason);

  Loop& loop_;
  Fd vmm_;
  Watch watch_;
  policy::Policy policy_;
  const Floor& floor_;
  Resolver& resolver_;
  event_log::EventLog* log_;
  std::function<void(std::string)> on_end_;
  std::unordered_map<uint32_t, std::unique_ptr<Flow>> flows_;
  struct Outgoing {
    std::vector<std::byte> bytes;
    Fd descriptor;
  };
  // What the VMM has not taken yet: a few small messages a flow.
  std::deque<Outgoing> outgoing_;
  bool waits_for_room_ = false;
  std::shared_ptr<int> alive_ = std::make_shared<int>();  // for what is posted
};

}  // namespace hutch::broker
