#include "vmm/exit_counters.h"

#include <algorithm>

namespace hutch::vmm {

void add_counter(std::vector<protocol::vmm::Counter>& list, const std::string& name,
                 uint64_t value) {
  auto found = std::find_if(list.begin(), list.end(),
                            [&](const auto& counter) { return counter.name == name; });
  if (found == list.end()) {
    list.push_back({name, value});
  } else {
    found->value += value;
  }
}

void ExitCounters::add_to(std::vector<protocol::vmm::Counter>& list,
                          const std::string& prefix) const {
  add_counter(list, prefix, total_.load(std::memory_order_relaxed));
  for (const Entry& entry : entries_) {
    uint64_t key = entry.key.load(std::memory_order_acquire);
    if (key == 0) continue;
    uint64_t address = key & ((1ull << 60) - 1);
    auto kind = static_cast<Kind>(key >> 60);
    const char* name = kind == Kind::kPort ? "port" : kind == Kind::kMmio ? "mmio" : "other";
    add_counter(list, fmt::format("{}/{}/{:#x}", prefix, name, address),
                entry.count.load(std::memory_order_relaxed));
  }
  if (uint64_t overflow = overflow_.load(std::memory_order_relaxed); overflow > 0)
    add_counter(list, prefix + "/other", overflow);
}

}  // namespace hutch::vmm
