// TokenBucket: how much of something a guest may have per second.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

namespace hutch {

// Holds at most `capacity` tokens and gains `per_second` (not 0) each second; starts full. Times
// are monotonic_ns(). One thread, or under the owner's lock.
class TokenBucket {
 public:
  TokenBucket(uint64_t capacity, uint64_t per_second)
      : capacity_(capacity), per_second_(per_second), tokens_(capacity) {}

  // How many tokens there are.
  uint64_t available(uint64_t now_ns) {
    refill(now_ns);
    return tokens_;
  }
  // Takes up to `wanted` tokens; returns how many there were.
  uint64_t take(uint64_t wanted, uint64_t now_ns) {
    uint64_t taken = std::min(wanted, available(now_ns));
    tokens_ -= taken;
    return taken;
  }
  // How long from the last call above until `wanted` tokens (at most the capacity) are there.
  std::chrono::nanoseconds until(uint64_t wanted) const {
    wanted = std::min(wanted, capacity_);
    if (tokens_ >= wanted) return std::chrono::nanoseconds(0);
    double seconds = static_cast<double>(wanted - tokens_) / static_cast<double>(per_second_);
    return std::chrono::nanoseconds(static_cast<int64_t>(seconds * 1e9) + 1);
  }

 private:
  void refill(uint64_t now_ns) {
    if (last_ns_ == 0 || now_ns <= last_ns_) {
      last_ns_ = std::max(last_ns_, now_ns);
      return;
    }
    // In floating point: nanoseconds times a rate would pass 2^64.
    double gained = static_cast<double>(now_ns - last_ns_) * static_cast<double>(per_second_) / 1e9;
    if (gained < 1) return;  // keep the fraction for the next call
    tokens_ = gained >= static_cast<double>(capacity_ - tokens_)
                  ? capacity_
                  : tokens_ + static_cast<uint64_t>(gained);
    last_ns_ = now_ns;
  }

  uint64_t capacity_;
  uint64_t per_second_;
  uint64_t tokens_;
  uint64_t last_ns_ = 0;
};

}  // namespace hutch
