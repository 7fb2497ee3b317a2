#include "net/tcp_service.h"

#include <sys/random.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cerrno>
#include <cstdlib>
#include <utility>

#include "base/log.h"
#include "base/sys.h"
#include "net/dns_stream.h"
#include "net/stream.h"

namespace hutch::net {
namespace {

constexpr uint16_t kDnsPort = 53;
// This many bytes for the guest in this time are a stream: more of it comes at once.
constexpr uint64_t kStreamBytes = 256 * 1024;
constexpr uint64_t kStreamNs = 1'000'000;
constexpr std::chrono::microseconds kLinger{100};

// Numbers from the kernel, fetched some at a time.
class KernelRandom {
 public:
  uint32_t operator()() {
    if (next_ == numbers_.size()) {
      // Up to 256 bytes come whole, or not at all (getrandom(2)).
      while (::getrandom(numbers_.data(), sizeof numbers_, 0) != sizeof numbers_) {
        if (errno == EINTR) continue;
        log_error("the host has no random numbers");
        std::abort();
      }
      next_ = 0;
    }
    return std::exchange(numbers_[next_++], 0);
  }

 private:
  std::array<uint32_t, 64> numbers_;
  size_t next_ = numbers_.size();
};

TcpOptions with_defaults(TcpOptions options) {
  if (!options.clock) options.clock = monotonic_ns;
  if (!options.random_number) options.random_number = KernelRandom();
  return options;
}

uint64_t seed(const TcpOptions& options) {
  const uint64_t high = options.random_number();
  return high << 32 | options.random_number();
}

uint16_t mss_of(const FlowKey& key) {
  const size_t ip = key.far.is_v4() ? sizeof(wire::Ipv4) : sizeof(wire::Ipv6);
  return static_cast<uint16_t>(kMtu - ip - sizeof(wire::Tcp));
}

// Flags that no kernel sends, and that leave open what is meant.
bool are_nonsense(const TcpSegment& segment) {
  const uint8_t flags = segment.flags & (tcp::kFin | tcp::kSyn | tcp::kRst | tcp::kAck);
  return flags == 0 || flags == tcp::kFin || segment.has(tcp::kSyn | tcp::kFin) ||
         segment.has(tcp::kSyn | tcp::kRst) || segment.has(tcp::kFin | tcp::kRst);
}

}  // namespace

// The segments of one flow, on their way into frames.
class TcpService::Sender final : public SegmentSender {
 public:
  Sender(TcpService& service, const FlowKey& key) : service_(service), key_(key) {}
  size_t max_payload(uint16_t segment_size) const override {
    return service_.link_.max_tcp_payload(key_, segment_size);
  }
  bool send(const TcpSegment& segment, uint16_t segment_size) override {
    if (service_.has_room_)
      service_.has_room_ = service_.link_.send_tcp(key_, segment, segment_size);
    return service_.has_room_;
  }

 private:
  TcpService& service_;
  const FlowKey& key_;
};

TcpService::TcpService(Loop& loop, Link& link, FlowOpener& opener, NameLookup& names,
                       LiteralPolicy& literals, DnsResponder& dns, Counters& counters,
                       TcpOptions options)
    : loop_(loop),
      link_(link),
      opener_(opener),
      names_(names),
      literals_(literals),
      dns_(dns),
      counters_(counters),
      options_(with_defaults(std::move(options))),
      syns_(options_.syn_burst, options_.syns_per_second),
      budget_(options_.memory),
      table_(options_.max_flows, seed(options_)) {}

TcpService::~TcpService() {
  std::vector<Flow*> flows;
  table_.for_each([&](Flow& flow) { flows.push_back(&flow); });
  for (Flow* flow : flows) remove(*flow);
}

// --- From the guest ----------------------------------------------------------------------------

void TcpService::on_segment(const IpAddress& far, const TcpPacket& packet) {
  const TcpSegment& segment = packet.segment;
  if (are_nonsense(segment)) {
    counters_.drop(Drop::kTcpFlags);
    return;
  }
  const FlowKey key{far, packet.destination_port, packet.source_port};
  const bool is_syn = segment.has(tcp::kSyn) && !segment.has(tcp::kAck);
  Flow* flow = table_.find(key);
  if (flow != nullptr && is_syn && flow->tcp.state() == TcpFlow::State::kTimeWait &&
      !flow->far_end) {
    remove(*flow);  // the guest has done with it, and uses the port again
    flow = nullptr;
  }
  if (flow != nullptr) {
    flow->tcp.receive(segment, flow->far_end.get(), options_.clock());
    make_ready(*flow);
  } else if (is_syn) {
    open(key, packet);
  } else if (!segment.has(tcp::kRst)) {
    counters_.drop(Drop::kTcpNoFlow);
    answer_with_reset(key, segment);
  }
}

void TcpService::open(const FlowKey& key, const TcpPacket& packet) {
  FlowTarget target{.name = {}, .address = key.far, .port = key.far_port};
  std::optional<std::string> name = names_.find(key.far);
  if (name) target.name = std::move(*name);
  // DNS to a literal address is answered here, whoever was asked: nothing of it leaves.
  const bool is_dns = !name && key.far_port == kDnsPort;
  const bool is_allowed = is_dns || name ||
                          (key.far != kGatewayAddress && key.far != kGatewayAddress6 &&
                           literals_.allows(key.far, key.far_port));
  if (!is_allowed) {
    counters_.drop(Drop::kTcpNoName);
    answer_with_reset(key, packet.segment);
    return;
  }
  // Over a limit nothing is answered: the guest's kernel tries again a second later.
  const uint64_t now_ns = options_.clock();
  if (syns_.take(1, now_ns) == 0) {
    counters_.drop(Drop::kTcpSynRate);
    return;
  }
  if (table_.is_full()) {
    if (Flow* over = table_.find_over()) remove(*over);
  }
  if ((!is_dns && opening_ >= options_.max_opening) || table_.is_full()) {
    counters_.drop(Drop::kTcpTableFull);
    return;
  }
  Flow& flow = table_.add(std::make_unique<Flow>(
      key, std::move(target), packet.segment,
      TcpFlow::Parameters{
          .initial_sequence = options_.random_number(), .mss = mss_of(key), .now_ns = now_ns},
      budget_));
  if (is_dns) {
    flow.is_local = true;
    flow.far_end = std::make_unique<DnsStream>(dns_);
    flow.tcp.connected(now_ns);
  } else {
    ask(flow);
  }
  make_ready(flow);
}

void TcpService::ask(Flow& flow) {
  flow.is_opening = true;
  opening_++;
  if (!flow.target.name.empty()) {
    flow.is_held = true;
    names_.hold(flow.key.far);
  }
  counters_.flows_asked++;
  const FlowKey key = flow.key;
  const uint64_t serial = flow.serial;
  flow.handle =
      opener_.open(flow.target, {.connected = [this, key, serial] { on_connected(key, serial); },
                                 .ready =
                                     [this, key, serial](Fd stream, size_t consumed) {
                                       on_ready(key, serial, std::move(stream), consumed);
                                     },
                                 .refused = [this, key, serial] { on_refused(key, serial); }});
}

// RFC 9293 section 3.10.7.1.
void TcpService::answer_with_reset(const FlowKey& key, const TcpSegment& segment) {
  TcpSegment reset{.flags = tcp::kRst};
  if (segment.has(tcp::kAck)) {
    reset.sequence = segment.acknowledgement;
  } else {
    reset.flags |= tcp::kAck;
    reset.acknowledgement = segment.sequence + segment.length();
  }
  if (!link_.send_tcp(key, reset, mss_of(key))) counters_.drop(Drop::kNoRoom);
}

// --- From the far side -------------------------------------------------------------------------

Flow* TcpService::find(const FlowKey& key, uint64_t serial) {
  Flow* flow = table_.find(key);
  return flow != nullptr && flow->serial == serial ? flow : nullptr;
}

void TcpService::opened(Flow& flow) {
  if (flow.is_opening) opening_--;
  flow.is_opening = false;
}

void TcpService::on_connected(const FlowKey& key, uint64_t serial) {
  Flow* flow = find(key, serial);
  if (flow == nullptr) return;
  opened(*flow);
  flow->tcp.connected(options_.clock());
  make_ready(*flow);
  run();
}

void TcpService::on_ready(const FlowKey& key, uint64_t serial, Fd stream, size_t consumed) {
  Flow* flow = find(key, serial);
  if (flow == nullptr || flow->far_end || flow->tcp.was_cut()) return;
  const uint64_t now_ns = options_.clock();
  opened(*flow);
  auto far_end = Stream::create(loop_, std::move(stream), counters_,
                                [this, key, serial] { on_stream(key, serial); });
  flow->tcp.connected(now_ns);
  if (far_end && consumed <= flow->tcp.incoming_size()) {
    flow->tcp.consumed(consumed, now_ns);
    flow->tcp.joined(now_ns);
    flow->far_end = std::move(*far_end);
    counters_.flows_joined++;
  } else {
    log_error("joining a flow to its stream: {}",
              far_end ? "more bytes are gone than there were" : far_end.error().text());
    flow->tcp.abort(now_ns);
  }
  make_ready(*flow);
  run();
}

void TcpService::on_refused(const FlowKey& key, uint64_t serial) {
  Flow* flow = find(key, serial);
  if (flow == nullptr) return;
  counters_.drop(Drop::kTcpRefused);
  opened(*flow);
  flow->tcp.abort(options_.clock());
  make_ready(*flow);
  run();
}

void TcpService::on_stream(const FlowKey& key, uint64_t serial) {
  Flow* flow = find(key, serial);
  if (flow == nullptr) return;
  make_ready(*flow);
  run();
}

// --- What follows ------------------------------------------------------------------------------

void TcpService::make_ready(Flow& flow) {
  if (flow.is_ready) return;
  flow.is_ready = true;
  ready_.push_back(flow.key);
}

void TcpService::on_room() {
  has_room_ = true;
  for (const FlowKey& key : std::exchange(parked_, {})) {
    Flow* flow = table_.find(key);
    if (flow == nullptr || !flow->is_parked) continue;
    flow->is_parked = false;
    make_ready(*flow);
  }
}

void TcpService::run() {
  if (is_running_) return;  // a callback from inside it: the loop below goes on
  is_running_ = true;
  now_ns_ = options_.clock();
  send_resets();
  while (!ready_.empty()) {
    const FlowKey key = ready_.front();
    ready_.pop_front();
    Flow* flow = table_.find(key);
    // An entry of a flow that has ended may meet its successor: that is then looked at once more.
    if (flow == nullptr) continue;
    flow->is_ready = false;
    const bool has_sent_all = settle(*flow);
    if (flow->tcp.is_closed()) {
      remove(*flow);
      continue;
    }
    if (!has_sent_all && !flow->is_parked) {
      flow->is_parked = true;
      parked_.push_back(key);
    }
    arm(flow->tcp.deadline());
  }
  is_running_ = false;
  link_.flush();
  if (is_streaming()) loop_.linger(kLinger);
}

// Whether bytes for the guest come so fast that it is cheaper not to sleep: the far side pays for
// each time that it wakes us. Those from the guest come with its own pauses.
bool TcpService::is_streaming() {
  if (counters_.bytes_to_guest - stream_bytes_ >= kStreamBytes) {
    if (now_ns_ - stream_since_ns_ <= kStreamNs) streams_until_ns_ = now_ns_ + kStreamNs;
    stream_bytes_ = counters_.bytes_to_guest;
    stream_since_ns_ = now_ns_;
  }
  return now_ns_ < streams_until_ns_;
}

// False: the guest had no room for all that is due.
bool TcpService::settle(Flow& flow) {
  carry(flow);
  Sender sender(*this, flow.key);
  const bool has_sent_all = flow.tcp.flush(sender, now_ns_);
  if (flow.tcp.was_cut()) cut(flow);
  return has_sent_all;
}

// Between the flow and its far end.
void TcpService::carry(Flow& flow) {
  if (flow.far_end) {
    flow.far_end->pump(flow.tcp, now_ns_);
    if (flow.far_end->is_over() && !flow.tcp.was_cut()) let_go(flow);
    return;
  }
  if (!flow.handle || !flow.tcp.is_open()) return;
  [[maybe_unused]] const FlowKey key = flow.key;
  [[maybe_unused]] const uint64_t serial = flow.serial;
  // Held bytes grow until the flow is joined; none are taken before.
  const size_t held = flow.tcp.incoming_size();
  if (held > flow.classified) {
    flow.classified = held;
    flow.handle->classify(flow.tcp.incoming()[0]);
    assert(find(key, serial) == &flow);
  }
  if (flow.tcp.guest_has_ended() && !flow.has_said_all && !flow.far_end && !flow.tcp.was_cut()) {
    flow.has_said_all = true;
    flow.handle->said_all();
    assert(find(key, serial) == &flow);
  }
}

// The far side of a flow that did not end in order.
void TcpService::cut(Flow& flow) {
  if (flow.far_end) flow.far_end->cut();
  opened(flow);
  let_go(flow);
}

// Nothing more of the far side is wanted.
void TcpService::let_go(Flow& flow) {
  flow.far_end.reset();
  if (auto handle = std::move(flow.handle)) handle->ended(flow.tcp.totals());
}

void TcpService::remove(Flow& flow) {
  if (flow.tcp.was_cut()) cut(flow);
  opened(flow);
  let_go(flow);
  if (flow.is_held) names_.release(flow.key.far);
  if (flow.is_parked) std::erase(parked_, flow.key);
  table_.remove(FlowKey(flow.key));
}

size_t TcpService::close_where(const std::function<bool(const FlowTarget&)>& is_cut) {
  size_t count = 0;
  const uint64_t now_ns = options_.clock();
  table_.for_each([&](Flow& flow) {
    if (flow.is_local || flow.tcp.was_cut() || !is_cut(flow.target)) return;
    flow.tcp.abort(now_ns);
    make_ready(flow);
    count++;
  });
  run();
  return count;
}

void TcpService::reset_all() {
  const uint64_t now_ns = options_.clock();
  table_.for_each([&](Flow& flow) {
    flow.tcp.abort(now_ns);
    make_ready(flow);
  });
  run();
}

std::vector<FlowRemains> TcpService::remains() {
  std::vector<FlowRemains> result;
  table_.for_each([&](Flow& flow) {
    if (std::optional<TcpSegment> reset = flow.tcp.parting_reset())
      result.push_back({flow.key, reset->sequence, reset->acknowledgement});
  });
  return result;
}

Result<void> TcpService::reset_remains(const std::vector<FlowRemains>& remains) {
  if (remains.size() > options_.max_flows)
    return fail(fmt::format("{} flows are too many", remains.size()));
  remains_.assign(remains.begin(), remains.end());
  run();
  return {};
}

void TcpService::send_resets() {
  for (; has_room_ && !remains_.empty(); remains_.pop_front()) {
    const FlowRemains& flow = remains_.front();
    const TcpSegment reset{.sequence = flow.sequence,
                           .acknowledgement = flow.acknowledgement,
                           .flags = tcp::kRst | tcp::kAck};
    has_room_ = link_.send_tcp(flow.key, reset, mss_of(flow.key));
    if (!has_room_) return;
  }
}

// --- Time --------------------------------------------------------------------------------------

// One timer for all flows, at the earliest deadline that was seen; that a flow's deadline has moved
// away meanwhile is noticed when it comes.
void TcpService::arm(uint64_t deadline_ns) {
  if (deadline_ns >= wake_ns_) return;
  wake_ns_ = deadline_ns;
  const uint64_t now_ns = options_.clock();
  const auto delay = std::chrono::nanoseconds(deadline_ns > now_ns ? deadline_ns - now_ns : 0);
  wake_ = loop_.after(delay, [this](uint32_t) { on_timer(); });
}

void TcpService::on_timer() {
  const uint64_t now_ns = options_.clock();
  wake_ns_ = TcpFlow::kNever;
  uint64_t earliest = TcpFlow::kNever;
  table_.for_each([&](Flow& flow) {
    const uint64_t deadline = flow.tcp.deadline();
    if (deadline > now_ns) {
      earliest = std::min(earliest, deadline);
      return;
    }
    flow.tcp.on_timer(now_ns);
    make_ready(flow);
  });
  run();
  if (earliest != TcpFlow::kNever) arm(earliest);
}

}  // namespace hutch::net
