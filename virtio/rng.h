// Rng: the entropy device (virtio 1.2 section 5.4), filled from the host's getrandom().
//
// Always there; the guest kernel needs kernel-config/features/virtio-rng.config. One request gets
// at most kMaxRequest bytes, and a guest at most kBytesPerSecond: entropy costs host CPU time.
#pragma once

#include "base/loop.h"
#include "base/token_bucket.h"
#include "virtio/device.h"
#include "virtio/queue_runner.h"

namespace hutch::virtio {

class Rng final : public Device {
 public:
  static constexpr uint64_t kMaxRequest = 64 * 1024;
  static constexpr uint64_t kBurst = 256 * 1024;
  static constexpr uint64_t kBytesPerSecond = 1024 * 1024;

  // Requests are served on the loop's thread.
  explicit Rng(Loop& loop);

  DeviceTraits traits() const override;
  void read_config(uint32_t, std::span<uint8_t>) override {}
  void write_config(uint32_t, std::span<const uint8_t>) override {}
  Result<void> start_queue(uint16_t index, QueueResources resources, uint64_t features) override;
  std::optional<QueueState> stop_queue(uint16_t index) override;
  void reset() override {}

 private:
  Result<std::optional<uint64_t>> fill(const Chain& chain);

  Loop& loop_;
  TokenBucket bytes_{kBurst, kBytesPerSecond};
  Watch refill_;  // of the bucket, while a request waits for it
  QueueRunner requests_;
};

}  // namespace hutch::virtio
