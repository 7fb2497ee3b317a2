// Counts exits to user space by port or address, one table per vCPU.
//
// The owner's thread counts, any thread may read. Addresses are guest-controlled, so the table is
// bounded: what does not fit is counted as "other".
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "protocol/vmm.h"

namespace hutch::vmm {

class ExitCounters {
 public:
  enum class Kind : uint8_t { kPort = 1, kMmio = 2, kOther = 3 };

  // Counts one exit. Only the owner's thread.
  void count(Kind kind, uint64_t address) {
    total_.fetch_add(1, std::memory_order_relaxed);
    uint64_t key = (static_cast<uint64_t>(kind) << 60) | (address & ((1ull << 60) - 1));
    size_t slot = (key * 0x9e3779b97f4a7c15ull) >> 56;
    for (size_t probe = 0; probe < entries_.size(); probe++) {
      Entry& entry = entries_[(slot + probe) % entries_.size()];
      uint64_t stored = entry.key.load(std::memory_order_relaxed);
      if (stored == 0) entry.key.store(stored = key, std::memory_order_release);
      if (stored != key) continue;
      entry.count.fetch_add(1, std::memory_order_relaxed);
      return;
    }
    overflow_.fetch_add(1, std::memory_order_relaxed);
  }

  // Appends "PREFIX" with the total and "PREFIX/KIND/ADDRESS" for each address, adding to what the
  // list has of the same name.
  void add_to(std::vector<protocol::vmm::Counter>& list, const std::string& prefix) const;

 private:
  struct Entry {
    std::atomic<uint64_t> key{0};  // 0: free
    std::atomic<uint64_t> count{0};
  };
  std::array<Entry, 256> entries_;
  std::atomic<uint64_t> overflow_{0};
  std::atomic<uint64_t> total_{0};
};

// Adds `value` to the counter of that name, which is appended when missing.
void add_counter(std::vector<protocol::vmm::Counter>& list, const std::string& name,
                 uint64_t value);

}  // namespace hutch::vmm
