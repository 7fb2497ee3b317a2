#include "broker/broker.h"

#include <sys/socket.h>
#include <time.h>

#include <algorithm>
#include <cerrno>

#include "base/log.h"
#include "base/sys.h"
#include "policy/host_name.h"

namespace hutch::broker {
namespace {

using policy::Permission;
namespace wire = protocol::broker;
using event_log::quoted;

// How often first bytes are looked at again: each time reads all of them.
constexpr unsigned kMaxLooks = 4096;
constexpr size_t kMaxOutgoing = 4 * wire::kMaxFlows;
// A client that opens a connection and says nothing.
constexpr std::chrono::seconds kFirstBytesTime{60};

uint64_t unix_ms() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000 + static_cast<uint64_t>(now.tv_nsec) / 1'000'000;
}

}  // namespace

struct Broker::Flow {
  uint32_t number = 0;
  Target target;
  IpAddress address;  // asked for, or in the end connected to
  std::unique_ptr<Question> question;
  std::unique_ptr<Dial> dial;
  Fd stream;
  Watch watch;    // for room in the stream, while first bytes are passed on
  Watch timeout;  // for the first bytes
  std::vector<std::byte> first;
  size_t passed_on = 0;
  unsigned looks = 0;
  const char* spoken = "";
  bool wants_first = false;  // the VMM was told to send first bytes
  bool is_cleared = false;   // the first bytes may go
  bool is_ready = false;     // the VMM has the connection
  bool is_refused = false;   // only its number is left
};

Broker::Broker(Loop& loop, Fd vmm, policy::Policy policy, const Floor& floor, Resolver& resolver,
               event_log::EventLog* log, std::function<void(std::string reason)> on_end)
    : loop_(loop),
      vmm_(std::move(vmm)),
      policy_(std::move(policy)),
      floor_(floor),
      resolver_(resolver),
      log_(log),
      on_end_(std::move(on_end)) {}

Broker::~Broker() = default;

Result<void> Broker::start() {
  TRY(set_nonblocking(vmm_.get()));
  watch_ = TRY(loop_.watch(vmm_.get(), EPOLLIN, [this](uint32_t events) { on_event(events); }));
  record_policy();
  return {};
}

void Broker::on_event(uint32_t events) {
  if ((events & EPOLLOUT) != 0) flush();
  if (vmm_ && (events & ~uint32_t{EPOLLOUT}) != 0) on_readable();
}

void Broker::on_readable() {
  // A bounded number, then others have their turn.
  for (int i = 0; i < 64 && vmm_; i++) {
    Result<ReceivedMessage> message = receive_message(vmm_.get(), wire::kMaxMessage);
    if (!message && message.error().number == EAGAIN) return;
    if (!message) return end(message.error().message);
    if (message->bytes.empty()) return end("the VMM has gone");
    if (Result<void> handled = handle(message->bytes); !handled)
      return end(handled.error().message);
  }
}

Result<void> Broker::handle(std::span<const std::byte> bytes) {
  switch (TRY(wire::type_of(bytes))) {
    case wire::MessageType::kOpen:
      return open(TRY(wire::decode<wire::Open>(bytes)));
    case wire::MessageType::kFirst:
      return take_first(TRY(wire::decode<wire::First>(bytes)));
    case wire::MessageType::kClose:
      return close(TRY(wire::decode<wire::Close>(bytes)));
    case wire::MessageType::kDenied:
      return denied(TRY(wire::decode<wire::Denied>(bytes)));
    default:
      return fail("a message that only the broker sends");
  }
}

Result<void> Broker::open(const wire::Open& message) {
  if (flows_.contains(message.flow)) return fail("a flow's number that is in use");
  auto owner = std::make_unique<Flow>();
  Flow& flow = *owner;
  flow.number = message.flow;
  flow.target.port = message.port;
  // One place more: the refusal itself needs one.
  bool has_room = flows_.size() < wire::kMaxFlows;
  if (flows_.size() > wire::kMaxFlows) return fail("more flows than there may be");
  flows_.emplace(message.flow, std::move(owner));
  std::optional<Permission> permission;
  if (message.name.empty()) {
    std::optional<IpAddress> address = IpAddress::parse(message.address);
    if (!address) return fail("an address that is none");
    flow.address = *address;
    permission = policy_.allows(*address, message.port);
  } else {
    if (policy::canonical_host_name(message.name) != message.name)
      return fail("a name that is none");
    flow.target.name = message.name;
    permission = policy_.allows(message.name, message.port);
  }
  if (!permission) {
    refuse(flow, Reason::kPolicy, "no rule allows it");
    return {};
  }
  flow.target.permission = *std::move(permission);
  if (!has_room) {
    refuse(flow, Reason::kLimit, "too many connections");
    return {};
  }
  if (flow.target.name.empty()) {
    dial(flow, {flow.address});
    return {};
  }
  flow.question = resolver_.resolve(flow.target.name, [this, &flow](std::vector<IpAddress> found) {
    flow.question.reset();
    if (found.empty()) return refuse(flow, Reason::kNotResolved, "the name has no address");
    dial(flow, std::move(found));
  });
  return {};
}

void Broker::dial(Flow& flow, std::vector<IpAddress> addresses) {
  std::string why;
  std::erase_if(addresses, [&](const IpAddress& address) {
    std::string reason = floor_.reason(address);
    if (!reason.empty()) {
      why = fmt::format("{} is {}", address.text(), reason);
      flow.address = address;
    }
    return !reason.empty();
  });
  if (addresses.empty()) return refuse(flow, Reason::kFloor, why);
  flow.dial = std::make_unique<Dial>(
      loop_, std::move(addresses), flow.target.port,
      [this, &flow](Dial::Connected connected) { on_dialled(flow, std::move(connected)); });
}

void Broker::on_dialled(Flow& flow, Dial::Connected connected) {
  flow.dial.reset();
  if (!connected.stream) return refuse(flow, Reason::kNotReachable, "nothing answers there");
  flow.stream = std::move(connected.stream);
  flow.address = connected.address;
  if (!needs_classification(flow.target)) return look(flow);
  flow.timeout = loop_.after(kFirstBytesTime, [this, &flow](uint32_t) {
    refuse(flow, Reason::kProtocol, "the client says nothing");
  });
  flow.wants_first = true;
  send(wire::encode(wire::Connected{flow.number}));
}

Result<void> Broker::take_first(const wire::First& message) {
  auto found = flows_.find(message.flow);
  if (found == flows_.end()) return fail("bytes of a flow that there is not");
  Flow& flow = *found->second;
  if (!flow.wants_first) return fail("first bytes of a flow that wants none");
  // They have crossed our answer: the VMM keeps what is behind the bytes that were passed on.
  if (flow.is_refused || flow.is_cleared) return {};
  if (message.bytes.empty()) {
    refuse(flow, Reason::kProtocol, "the client ended before it told what it speaks");
    return {};
  }
  if (flow.first.size() + message.bytes.size() > wire::kMaxFirst)
    return fail("more first bytes than there may be");
  flow.first.insert(flow.first.end(), message.bytes.begin(), message.bytes.end());
  look(flow);
  return {};
}

void Broker::look(Flow& flow) {
  Classification found = classify(flow.target, flow.first);
  if (found.verdict == Classification::Verdict::kRefuse)
    return refuse(flow, Reason::kProtocol, found.reason);
  if (found.verdict == Classification::Verdict::kNeedMore) {
    if (++flow.looks >= kMaxLooks || flow.first.size() >= wire::kMaxFirst)
      return refuse(flow, Reason::kProtocol, "the first bytes do not tell what is spoken");
    return;
  }
  flow.timeout.reset();
  flow.spoken = found.reason;
  flow.is_cleared = true;
  pass_on(flow);
}

void Broker::pass_on(Flow& flow) {
  while (flow.passed_on < flow.first.size()) {
    ssize_t sent = ::send(flow.stream.get(), flow.first.data() + flow.passed_on,
                          flow.first.size() - flow.passed_on, MSG_NOSIGNAL);
    if (sent > 0) {
      flow.passed_on += static_cast<size_t>(sent);
      continue;
    }
    if (sent < 0 && errno == EINTR) continue;
    if (sent == 0 || errno != EAGAIN)
      return refuse(flow, Reason::kNotReachable, "the far side closed the connection");
    if (flow.watch.is_active()) return;
    Result<Watch> watch =
        loop_.watch(flow.stream.get(), EPOLLOUT, [this, &flow](uint32_t) { pass_on(flow); });
    if (!watch) return refuse(flow, Reason::kLimit, watch.error().message);
    flow.watch = *std::move(watch);
    return;
  }
  flow.watch.reset();
  flow.first = {};
  flow.is_ready = true;
  // Our own descriptor stays: it is how the flow is cut when the policy changes.
  Result<Fd> given = flow.stream.duplicate();
  if (!given) return refuse(flow, Reason::kLimit, given.error().message);
  record("open", flow, flow.spoken);
  send(wire::encode(wire::Ready{flow.number, static_cast<uint32_t>(flow.passed_on)}),
       *std::move(given));
}

void Broker::refuse(Flow& flow, Reason reason, const std::string& detail) {
  if (flow.is_refused) return;
  record("refuse", flow, fmt::format("{}: {}", wire::name(reason), detail));
  uint32_t number = flow.number;
  Fd stream = std::move(flow.stream);
  flow.is_refused = true;
  flow.first = {};
  flow.watch.reset();
  flow.timeout.reset();
  flow.dial.reset();
  flow.question.reset();
  // First: to a VMM that sees the stream's end alone, this would be an end in order.
  send(wire::encode(wire::Refused{number, reason}));
  if (stream) ::shutdown(stream.get(), SHUT_RDWR);
}

Result<void> Broker::close(const wire::Close& message) {
  auto found = flows_.find(message.flow);
  if (found == flows_.end()) return fail("the end of a flow that there is not");
  if (found->second->is_ready && !found->second->is_refused) record(message, *found->second);
  flows_.erase(found);
  return {};
}

Result<void> Broker::denied(const wire::Denied& message) {
  if (!message.name.empty() && policy::canonical_host_name(message.name) != message.name)
    return fail("a name that is none");
  if (!message.address.empty() && !IpAddress::parse(message.address))
    return fail("an address that is none");
  write(fmt::format(R"("event":"deny","name":{},"address":{},"port":{},"reason":{})",
                    quoted(message.name), quoted(message.address), message.port,
                    quoted(message.port == 0 ? "lookup: no rule knows the name"
                                             : "policy: no rule allows the address")));
  return {};
}

void Broker::set_policy(policy::Policy policy) {
  policy_ = std::move(policy);
  record_policy();
  for (const auto& [number, flow] : flows_) {
    if (flow->is_refused) continue;
    std::optional<Permission> permission =
        flow->target.name.empty() ? policy_.allows(flow->address, flow->target.port)
                                  : policy_.allows(flow->target.name, flow->target.port);
    if (permission) {
      flow->target.permission = *std::move(permission);
    } else {
      refuse(*flow, Reason::kPolicyChanged, "no rule allows it any more");
    }
    // What was written may have been the last.
    if (!vmm_) return;
  }
}

void Broker::send(std::vector<std::byte> bytes, Fd descriptor) {
  if (!vmm_) return;
  if (outgoing_.size() >= kMaxOutgoing) return end("the VMM does not read what it is told");
  outgoing_.push_back({std::move(bytes), std::move(descriptor)});
  if (outgoing_.size() == 1) flush();
}

void Broker::flush() {
  while (vmm_ && !outgoing_.empty()) {
    const Outgoing& next = outgoing_.front();
    int fd = next.descriptor.get();
    Result<void> sent =
        send_message(vmm_.get(), next.bytes, fd < 0 ? std::span<const int>() : std::span(&fd, 1));
    if (!sent && sent.error().number == EAGAIN) break;
    if (!sent) return end(std::move(sent).error().message);
    outgoing_.pop_front();
  }
  if (!vmm_ || waits_for_room_ == !outgoing_.empty()) return;
  waits_for_room_ = !outgoing_.empty();
  uint32_t events = waits_for_room_ ? EPOLLIN | EPOLLOUT : uint32_t{EPOLLIN};
  if (Result<void> changed = loop_.modify(watch_, events); !changed)
    end(std::move(changed).error().message);
}

void Broker::record(const char* event, const Flow& flow, const std::string& reason) {
  write(
      fmt::format(R"("event":{},"flow":{},"name":{},"address":{},"port":{},"rule":{},"reason":{})",
                  quoted(event), flow.number, quoted(flow.target.name), quoted(flow.address.text()),
                  flow.target.port, quoted(flow.target.permission.rule), quoted(reason)));
}

void Broker::record(const wire::Close& message, const Flow& flow) {
  write(fmt::format(
      R"("event":"close","flow":{},"name":{},"address":{},"port":{},"sent":{},"received":{})",
      flow.number, quoted(flow.target.name), quoted(flow.address.text()), flow.target.port,
      message.sent, message.received));
}

void Broker::record_policy() {
  // As many as go into a line.
  constexpr size_t kMaxText = 2048;
  std::vector<std::string> rules = policy_.patterns();
  std::string text = policy_.allows_all() ? "*" : fmt::format("{}", fmt::join(rules, " "));
  if (text.size() > kMaxText) text = text.substr(0, text.rfind(' ', kMaxText)) + " ...";
  write(fmt::format(R"("event":"policy","count":{},"rules":{})", rules.size(), quoted(text)));
}

void Broker::write(const std::string& members) {
  if (log_ == nullptr || !vmm_) return;
  // What cannot be recorded is not done.
  if (Result<void> written = log_->append(unix_ms(), members); !written)
    end(std::move(written).error().context("recording a decision").message);
}

void Broker::end(std::string reason) {
  if (!vmm_) return;
  watch_.reset();
  vmm_.reset();
  // Later: whoever called this still has flows in hand.
  loop_.post([this, reason = std::move(reason), alive = std::weak_ptr<int>(alive_)] {
    if (alive.expired()) return;
    outgoing_.clear();
    flows_.clear();
    if (auto done = std::exchange(on_end_, nullptr)) done(reason);
  });
}

}  // namespace hutch::broker
