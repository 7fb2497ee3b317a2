// TcpService: the guest's connections as a whole: which SYN becomes a flow, what each flow does
// when, and how it ends.
//
// What a segment, a socket or a decision changes in a flow is only noted at first; run() then does
// for all of them what follows, so that a batch of frames costs each flow one acknowledgement and
// few system calls. Belongs to one loop.
#pragma once

#include <deque>
#include <functional>
#include <vector>

#include "base/loop.h"
#include "base/token_bucket.h"
#include "net/counters.h"
#include "net/decisions.h"
#include "net/flow_opener.h"
#include "net/flow_table.h"
#include "net/link.h"

namespace hutch::net {

struct TcpOptions {
  size_t max_flows = 1024;
  size_t max_opening = 256;  // of those, whose far side has not answered yet
  // More than a host's core can connect: a guest that connects in earnest never meets this limit,
  // one that floods does.
  uint64_t syn_burst = 20'000;
  uint64_t syns_per_second = 20'000;
  size_t memory = 16 * 1024 * 1024;         // of all flows, beyond 8 KiB for each
  std::function<uint64_t()> clock;          // nanoseconds, never back; empty: monotonic_ns()
  std::function<uint32_t()> random_number;  // unpredictable; empty: the kernel's
};

// What a snapshot keeps of a flow: as much as it takes to reset it.
struct FlowRemains {
  FlowKey key;
  uint32_t sequence = 0;         // what the guest expects next
  uint32_t acknowledgement = 0;  // what it has been told to have been received
  friend bool operator==(const FlowRemains&, const FlowRemains&) = default;
};

class TcpService {
 public:
  // All must outlive it.
  TcpService(Loop& loop, Link& link, FlowOpener& opener, NameLookup& names, LiteralPolicy& literals,
             DnsResponder& dns, Counters& counters, TcpOptions options);
  ~TcpService();
  TcpService(const TcpService&) = delete;
  TcpService& operator=(const TcpService&) = delete;

  // A segment of the guest, from its address. To be followed by run().
  void on_segment(const IpAddress& far, const TcpPacket& packet);
  // Does what is due.
  void run();
  // The guest has made room; run() follows.
  void on_room();

  // Resets every flow whose target `is_cut` holds for; returns how many. Flows that end in the
  // gateway itself have no target.
  size_t close_where(const std::function<bool(const FlowTarget&)>& is_cut);
  // Resets all flows.
  void reset_all();

  // The flows that the guest knows of, at most max_flows.
  std::vector<FlowRemains> remains();
  // The guest is a restored one, and knows of these flows: resets them, when there is room. Errors:
  // more than max_flows; nothing is done.
  Result<void> reset_remains(const std::vector<FlowRemains>& remains);

  size_t flow_count() const { return table_.size(); }
  size_t opening_count() const { return opening_; }
  // Bytes of memory beyond what each flow always may have.
  size_t memory() const { return budget_.used(); }
  // When the timer is due, by the clock; TcpFlow::kNever.
  uint64_t next_wake() const { return wake_ns_; }

 private:
  class Sender;

  void open(const FlowKey& key, const TcpPacket& packet);
  void ask(Flow& flow);
  void on_connected(const FlowKey& key, uint64_t serial);
  void on_ready(const FlowKey& key, uint64_t serial, Fd stream, size_t consumed);
  void on_refused(const FlowKey& key, uint64_t serial);
  void on_stream(const FlowKey& key, uint64_t serial);
  Flow* find(const FlowKey& key, uint64_t serial);
  void answer_with_reset(const FlowKey& key, const TcpSegment& segment);
  void opened(Flow& flow);
  void make_ready(Flow& flow);
  bool is_streaming();
  bool settle(Flow& flow);
  void carry(Flow& flow);
  void cut(Flow& flow);
  void let_go(Flow& flow);
  void remove(Flow& flow);
  void send_resets();
  void on_timer();
  void arm(uint64_t deadline_ns);

  Loop& loop_;
  Link& link_;
  FlowOpener& opener_;
  NameLookup& names_;
  LiteralPolicy& literals_;
  DnsResponder& dns_;
  Counters& counters_;
  const TcpOptions options_;
  TokenBucket syns_;
  BufferBudget budget_;
  FlowTable table_;
  size_t opening_ = 0;
  bool has_room_ = true;  // the guest, for frames
  bool is_running_ = false;
  uint64_t stream_bytes_ = 0, stream_since_ns_ = 0, streams_until_ns_ = 0;
  uint64_t now_ns_ = 0;  // while it runs
  std::deque<FlowKey> ready_;
  std::deque<FlowRemains> remains_;  // to be reset
  std::vector<FlowKey> parked_;
  uint64_t wake_ns_ = TcpFlow::kNever;
  Watch wake_;
};

}  // namespace hutch::net
