#include "vmm/broker_client.h"

#include <sys/epoll.h>

#include <cerrno>
#include <optional>

#include "base/log.h"
#include "base/sys.h"
#include "protocol/broker.h"

namespace hutch::vmm {
namespace {

namespace wire = protocol::broker;

// A broker that reads nothing is as good as none.
constexpr size_t kMaxOutgoing = 4 * wire::kMaxFlows;

}  // namespace

class BrokerClient::Flow final : public net::FlowHandle {
 public:
  Flow(std::shared_ptr<BrokerClient*> client, uint32_t number, net::OpenCallbacks callbacks)
      : callbacks_(std::move(callbacks)), client_(std::move(client)), number_(number) {}
  ~Flow() override {
    if (*client_ != nullptr) (*client_)->forget(number_, totals_);
  }

  void classify(std::span<const std::byte> all_so_far) override {
    // What the broker has already it keeps.
    if (*client_ == nullptr || all_so_far.size() <= sent_) return;
    std::vector<std::byte> message = wire::encode(wire::First{number_, all_so_far.subspan(sent_)});
    sent_ = all_so_far.size();
    (*client_)->send(std::move(message));
  }

  void ended(const net::FlowTotals& totals) override { totals_ = totals; }
  void said_all() override {
    if (*client_ != nullptr) (*client_)->send(wire::encode(wire::First{number_, {}}));
  }

  // Each may drop this object.
  void connected() {
    if (!callbacks_.connected || was_connected_) return;
    was_connected_ = true;
    callbacks_.connected();
  }
  void ready(Fd stream, size_t consumed) {
    auto call = std::exchange(callbacks_.ready, nullptr);
    if (call) call(std::move(stream), consumed);
  }
  void refused() {
    auto call = std::exchange(callbacks_.refused, nullptr);
    callbacks_.ready = nullptr;
    if (call) call();
  }
  bool may_be_ready(size_t consumed) const { return callbacks_.ready && consumed <= sent_; }

 private:
  net::OpenCallbacks callbacks_;
  std::shared_ptr<BrokerClient*> client_;
  uint32_t number_;
  size_t sent_ = 0;  // of the guest's first bytes, to the broker
  bool was_connected_ = false;
  net::FlowTotals totals_;
};

BrokerClient::BrokerClient(Loop& loop, Fd broker)
    : loop_(loop), broker_(std::move(broker)), self_(std::make_shared<BrokerClient*>(this)) {}

BrokerClient::~BrokerClient() {
  *self_ = nullptr;
}

Result<void> BrokerClient::start() {
  watch_ = TRY(loop_.watch(broker_.get(), EPOLLIN, [this](uint32_t events) { on_event(events); }));
  return {};
}

std::unique_ptr<net::FlowHandle> BrokerClient::open(const net::FlowTarget& target,
                                                    net::OpenCallbacks callbacks) {
  while (flows_.contains(next_number_)) next_number_++;
  uint32_t number = next_number_++;
  auto flow = std::make_unique<Flow>(self_, number, std::move(callbacks));
  flows_[number] = flow.get();
  if (is_lost()) {
    loop_.post([self = self_, number] {
      if (*self == nullptr) return;
      auto found = (*self)->flows_.find(number);
      if (found != (*self)->flows_.end()) found->second->refused();
    });
    return flow;
  }
  send(wire::encode(wire::Open{number, target.name, target.address.text(), target.port}));
  return flow;
}

void BrokerClient::denied(const net::FlowTarget& target) {
  send(wire::encode(
      wire::Denied{target.name, target.name.empty() ? target.address.text() : "", target.port}));
}

void BrokerClient::forget(uint32_t number, const net::FlowTotals& totals) {
  flows_.erase(number);
  send(wire::encode(wire::Close{number, totals.from_guest, totals.to_guest}));
}

void BrokerClient::on_event(uint32_t events) {
  if ((events & EPOLLOUT) != 0) flush();
  if (broker_ && (events & ~uint32_t{EPOLLOUT}) != 0) on_readable();
}

void BrokerClient::on_readable() {
  // A bounded number, then the guest's frames have their turn; but all that a change of policy
  // cuts, before the ends of those streams are seen.
  for (size_t i = 0; i < wire::kMaxFlows && broker_; i++) {
    Result<ReceivedMessage> message = receive_message(broker_.get(), wire::kMaxMessage);
    if (!message && message.error().number == EAGAIN) return;
    if (!message) return lose(message.error().message);
    if (message->bytes.empty()) return lose("it has gone");
    if (Result<void> handled = handle(message->bytes, std::move(message->fds)); !handled)
      return lose(handled.error().message);
  }
}

Result<void> BrokerClient::handle(std::span<const std::byte> bytes, std::vector<Fd> fds) {
  wire::MessageType type = TRY(wire::type_of(bytes));
  if (fds.size() != (type == wire::MessageType::kReady ? 1u : 0u))
    return fail("a message with another number of descriptors");
  // An answer may cross the flow's end.
  auto flow_of = [&](uint32_t number) {
    auto found = flows_.find(number);
    return found == flows_.end() ? nullptr : found->second;
  };
  switch (type) {
    case wire::MessageType::kConnected:
      if (Flow* flow = flow_of(TRY(wire::decode<wire::Connected>(bytes)).flow)) flow->connected();
      return {};
    case wire::MessageType::kReady: {
      wire::Ready ready = TRY(wire::decode<wire::Ready>(bytes));
      Flow* flow = flow_of(ready.flow);
      if (flow == nullptr) return {};
      if (!flow->may_be_ready(ready.consumed)) return fail("a connection that was not waited for");
      flow->ready(std::move(fds[0]), ready.consumed);
      return {};
    }
    case wire::MessageType::kRefused:
      if (Flow* flow = flow_of(TRY(wire::decode<wire::Refused>(bytes)).flow)) flow->refused();
      return {};
    default:
      return fail("a message that only the VMM sends");
  }
}

void BrokerClient::send(std::vector<std::byte> message) {
  if (!broker_) return;
  if (outgoing_.size() >= kMaxOutgoing) return lose("it reads nothing");
  outgoing_.push_back(std::move(message));
  if (outgoing_.size() == 1) flush();
}

void BrokerClient::flush() {
  while (broker_ && !outgoing_.empty()) {
    Result<void> sent = send_message(broker_.get(), outgoing_.front(), {});
    if (!sent && sent.error().number == EAGAIN) break;
    if (!sent) return lose(sent.error().message);
    outgoing_.pop_front();
  }
  if (!broker_ || waits_for_room_ == !outgoing_.empty()) return;
  waits_for_room_ = !outgoing_.empty();
  uint32_t events = waits_for_room_ ? EPOLLIN | EPOLLOUT : uint32_t{EPOLLIN};
  if (Result<void> changed = loop_.modify(watch_, events); !changed) lose(changed.error().message);
}

void BrokerClient::lose(const std::string& why) {
  if (!broker_) return;
  log_error("the broker is lost ({}): the guest reaches nothing any more", why);
  watch_.reset();
  broker_.reset();
  outgoing_.clear();
  // Later: one of them may be in the middle of a call.
  loop_.post([self = self_] {
    if (*self == nullptr) return;
    std::vector<uint32_t> numbers;
    for (const auto& [number, flow] : (*self)->flows_) numbers.push_back(number);
    for (uint32_t number : numbers) {
      if (*self == nullptr) return;
      auto found = (*self)->flows_.find(number);
      if (found != (*self)->flows_.end()) found->second->refused();
    }
  });
}

}  // namespace hutch::vmm
