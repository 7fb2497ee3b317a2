// FlowTable: the guest's connections, found by their addresses and ports. Bounded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <unordered_map>

#include "net/far_end.h"
#include "net/flow_opener.h"
#include "net/link.h"
#include "net/tcp_flow.h"

namespace hutch::net {

// One connection: its TCP, and what is at the other end of it.
struct Flow {
  Flow(FlowKey flow_key, FlowTarget flow_target, const TcpSegment& syn,
       const TcpFlow::Parameters& parameters, BufferBudget& budget)
      : key(flow_key), target(std::move(flow_target)), tcp(syn, parameters, budget) {}

  const FlowKey key;
  const FlowTarget target;
  uint64_t serial = 0;  // no other flow ever has it
  TcpFlow tcp;
  bool is_local = false;      // ends here, nobody was asked
  bool is_opening = false;    // counts among those that open
  bool is_held = false;       // its address is, see NameLookup
  bool is_ready = false;      // among those that may have something to do
  bool is_parked = false;     // among those that wait for room
  bool has_said_all = false;  // said_all() was called
  size_t classified = 0;      // bytes that classify() has been given
  // Last, so that they go first: their callbacks know the flow.
  std::unique_ptr<FlowHandle> handle;  // null: is_local
  std::unique_ptr<FarEnd> far_end;     // null: not joined yet, or over
};

class FlowTable {
 public:
  // `seed` is unpredictable: the guest chooses the keys.
  FlowTable(size_t limit, uint64_t seed);

  Flow* find(const FlowKey& key);
  bool is_full() const { return flows_.size() >= limit_; }
  // A flow that is over but for what it remembers; null: none is.
  Flow* find_over();
  // It is not full, and no flow has the key.
  Flow& add(std::unique_ptr<Flow> flow);
  void remove(const FlowKey& key) { flows_.erase(key); }
  size_t size() const { return flows_.size(); }
  // `visit` must not add or remove.
  void for_each(const std::function<void(Flow&)>& visit);

 private:
  struct Hash {
    uint64_t seed;
    size_t operator()(const FlowKey& key) const;
  };

  const size_t limit_;
  uint64_t next_serial_ = 1;
  std::unordered_map<FlowKey, std::unique_ptr<Flow>, Hash> flows_;
};

}  // namespace hutch::net
