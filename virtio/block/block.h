// Block: a disk (virtio 1.2 section 5.2).
//
// `--disk FILE` or `--disk FILE:ro`; the guest kernel needs
// kernel-config/features/virtio-blk.config. Requests are served one after another with blocking
// calls, so each disk, or all disks of a machine, has a loop on a thread of its own. A completed
// FLUSH is durable; a driver that did not negotiate FLUSH gets each write durable.
//
// Left out: several queues, secure erase, lifetime, zones, the legacy SCSI and cache commands.
#pragma once

#include <memory>
#include <string>

#include "base/log.h"
#include "base/loop.h"
#include "virtio/block/backend.h"
#include "virtio/block/request.h"
#include "virtio/device.h"
#include "virtio/queue_runner.h"

namespace hutch::virtio {

struct BlockOptions {
  bool read_only = false;
  std::string id;  // what the guest sees as the disk's serial; at most 20 bytes count
};

class Block final : public Device {
 public:
  // `loop` outlives the device.
  Block(Loop& loop, std::unique_ptr<block::Backend> backend, BlockOptions options);

  DeviceTraits traits() const override;
  void read_config(uint32_t offset, std::span<uint8_t> data) override;
  void write_config(uint32_t, std::span<const uint8_t>) override {}
  Result<void> start_queue(uint16_t index, QueueResources resources, uint64_t features) override;
  std::optional<QueueState> stop_queue(uint16_t index) override;
  void reset() override {}

 private:
  Result<std::optional<uint64_t>> serve(const Chain& chain);
  Result<void> run(const block::Request& request, const Chain& chain);
  Result<void> identify(const Chain& chain);

  const std::unique_ptr<block::Backend> backend_;
  const BlockOptions options_;
  block::Disk disk_;
  RateLimit complaints_{4};
  QueueRunner requests_;
};

}  // namespace hutch::virtio
