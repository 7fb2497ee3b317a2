// ConsoleBuffer: keeps the end of what a guest prints, and may pass it on.
//
// A guest can print without end: memory is a ring of kCapacity bytes, and passing on is limited in
// rate and never waits. What is not passed on is counted.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <string>

#include "base/fd.h"
#include "base/token_bucket.h"
#include "devices/serial.h"

namespace hutch {

class ConsoleBuffer final : public ConsoleSink {
 public:
  static constexpr size_t kCapacity = 64 * 1024;
  static constexpr uint64_t kDefaultBytesPerSecond = 1024 * 1024;

  ConsoleBuffer() = default;

  // From now on also passes output on to `output`: a pipe, socket, terminal or file, blocking or
  // not. At most `bytes_per_second`, and only what it takes at once. The process must ignore
  // SIGPIPE. Any thread.
  void pass_on_to(Fd output, uint64_t bytes_per_second = kDefaultBytesPerSecond);

  // ConsoleSink: any thread.
  void write(std::span<const uint8_t> bytes) override;

  // The last `lines` lines, an unfinished last one included, for a person's terminal or log:
  // escape sequences and control characters are gone, bytes beyond ASCII are '?', nothing but
  // printable characters, tabs and '\n' is left. Any thread.
  std::string tail(size_t lines) const;

  // Bytes the guest has printed; those of them no longer in the ring; those not passed on.
  uint64_t printed() const;
  uint64_t overwritten() const;
  uint64_t dropped() const;

 private:
  void pass_on(std::span<const uint8_t> bytes);

  mutable std::mutex mutex_;
  // Under mutex_:
  std::array<uint8_t, kCapacity> ring_;
  uint64_t printed_ = 0;  // the next byte goes to ring_[printed_ % kCapacity]
  uint64_t dropped_ = 0;
  Fd output_;
  TokenBucket rate_{kDefaultBytesPerSecond, kDefaultBytesPerSecond};
};

// `bytes` made harmless as tail() says.
std::string printable_text(std::span<const uint8_t> bytes);

}  // namespace hutch
