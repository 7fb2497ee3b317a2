#include "net/flow_table.h"

#include <cassert>

namespace hutch::net {

FlowTable::FlowTable(size_t limit, uint64_t seed) : limit_(limit), flows_(0, Hash{seed}) {
  flows_.reserve(limit);
}

// With the seed unknown, keys that collide cannot be chosen; and there are few.
size_t FlowTable::Hash::operator()(const FlowKey& key) const {
  uint64_t hash = seed;
  auto mix = [&hash](uint64_t value) {
    hash = (hash ^ value) * 0x9e3779b97f4a7c15;
    hash ^= hash >> 32;
  };
  uint64_t word = 0;
  size_t count = 0;
  for (uint8_t byte : key.far.bytes()) {
    word = word << 8 | byte;
    if (++count % 8 == 0) {
      mix(word);
      word = 0;
    }
  }
  mix(word);
  mix(static_cast<uint64_t>(key.far_port) << 16 | key.guest_port);
  return static_cast<size_t>(hash);
}

Flow* FlowTable::find(const FlowKey& key) {
  auto found = flows_.find(key);
  return found == flows_.end() ? nullptr : found->second.get();
}

Flow* FlowTable::find_over() {
  for (auto& [key, flow] : flows_) {
    const TcpFlow::State state = flow->tcp.state();
    if (!flow->far_end && (state == TcpFlow::State::kTimeWait || state == TcpFlow::State::kReset))
      return flow.get();
  }
  return nullptr;
}

Flow& FlowTable::add(std::unique_ptr<Flow> flow) {
  assert(!is_full() && !flows_.contains(flow->key));
  flow->serial = next_serial_++;
  Flow& added = *flow;
  flows_.emplace(added.key, std::move(flow));
  return added;
}

void FlowTable::for_each(const std::function<void(Flow&)>& visit) {
  for (auto& [key, flow] : flows_) visit(*flow);
}

}  // namespace hutch::net
