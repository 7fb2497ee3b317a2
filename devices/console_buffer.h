// ConsoleBuffer: keeps the end of what a guest prints, and may pass it on.
//
// A guest can print without end: memory is a ring of kCapacity bytes, and passing on is limited in
// rate and never waits. A reader may be kBacklog bytes late; what it does not get is counted.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/token_bucket.h"
#include "devices/serial.h"

namespace hutch {

class ConsoleBuffer final : public ConsoleSink {
 public:
  static constexpr size_t kCapacity = 64 * 1024;
  static constexpr size_t kBacklog = 512 * 1024;
  static constexpr uint64_t kDefaultBytesPerSecond = 1024 * 1024;

  ConsoleBuffer() = default;

  // From now on also passes output on to `output`: a pipe, socket, terminal or file, blocking or
  // not. At most `bytes_per_second`. `on_backlog`, if any, is called from write(), under the lock,
  // when output begins to wait: flush() is to be called once `output` is writable. The process must
  // ignore SIGPIPE. Before the first write.
  void pass_on_to(Fd output, uint64_t bytes_per_second = kDefaultBytesPerSecond,
                  std::function<void()> on_backlog = nullptr);
  // Passes on what waits, as far as `output` takes it at once. Whether nothing waits any more. Any
  // thread.
  bool flush();
  // Where output is passed on to, -1 for nowhere; valid as long as this.
  int output() const { return output_.get(); }

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
  size_t write_at_once(std::span<const uint8_t> bytes);

  mutable std::mutex mutex_;
  // Under mutex_:
  std::array<uint8_t, kCapacity> ring_;
  uint64_t printed_ = 0;  // the next byte goes to ring_[printed_ % kCapacity]
  uint64_t dropped_ = 0;
  Fd output_;
  std::function<void()> on_backlog_;
  std::vector<uint8_t> backlog_;  // passed on from backlog_start_ on
  size_t backlog_start_ = 0;
  TokenBucket rate_{kDefaultBytesPerSecond, kDefaultBytesPerSecond};
};

// `bytes` made harmless as tail() says.
std::string printable_text(std::span<const uint8_t> bytes);

}  // namespace hutch
