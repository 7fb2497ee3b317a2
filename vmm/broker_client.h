// BrokerClient: asks the broker (protocol/broker.h) for what the guest wants to connect to.
//
// The broker decides again and may be gone at any time; then, and for whatever breaks the protocol,
// every flow is refused, those that are open too. The network's loop only.
#pragma once

#include <deque>
#include <memory>
#include <unordered_map>
#include <vector>

#include "base/fd.h"
#include "base/loop.h"
#include "net/flow_opener.h"

namespace hutch::vmm {

class BrokerClient final : public net::FlowOpener {
 public:
  // `broker` is a non-blocking SOCK_SEQPACKET socket.
  BrokerClient(Loop& loop, Fd broker);
  ~BrokerClient() override;
  BrokerClient(const BrokerClient&) = delete;
  BrokerClient& operator=(const BrokerClient&) = delete;

  Result<void> start();
  // Flows that are handed out outlive this object at most as refused ones.
  std::unique_ptr<net::FlowHandle> open(const net::FlowTarget& target,
                                        net::OpenCallbacks callbacks) override;
  // For the log: what the guest asked for and was refused without the broker.
  void denied(const net::FlowTarget& target);
  bool is_lost() const { return !broker_; }

 private:
  class Flow;

  void on_event(uint32_t events);
  void on_readable();
  Result<void> handle(std::span<const std::byte> bytes, std::vector<Fd> fds);
  void send(std::vector<std::byte> message);
  void flush();
  void forget(uint32_t number, const net::FlowTotals& totals);
  void lose(const std::string& why);

  Loop& loop_;
  Fd broker_;
  Watch watch_;
  bool waits_for_room_ = false;
  std::deque<std::vector<std::byte>> outgoing_;
  std::unordered_map<uint32_t, Flow*> flows_;
  uint32_t next_number_ = 1;
  std::shared_ptr<BrokerClient*> self_;  // null inside once this object is gone
};

}  // namespace hutch::vmm
