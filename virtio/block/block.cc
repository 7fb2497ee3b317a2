#include "virtio/block/block.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace hutch::virtio {

using block::Kind;

namespace {
constexpr uint16_t kQueueSize = 256;
}

Block::Block(Loop& loop, std::unique_ptr<block::Backend> backend, BlockOptions options)
    : backend_(std::move(backend)),
      options_(std::move(options)),
      disk_{.size = backend_->size(), .read_only = options_.read_only},
      requests_(loop, [this](const Chain& chain) { return serve(chain); },
                {.interrupt_each = true}) {}

DeviceTraits Block::traits() const {
  uint64_t features =
      spec::kBlockFeatureSegMax | spec::kBlockFeatureBlockSize | spec::kBlockFeatureFlush;
  features |= options_.read_only ? spec::kBlockFeatureReadOnly
                                 : spec::kBlockFeatureDiscard | spec::kBlockFeatureWriteZeroes;
  return {.device_id = spec::kDeviceIdBlock,
          .features = features,
          .queue_sizes = {kQueueSize},
          .config_size = sizeof(spec::BlockConfig)};
}

void Block::read_config(uint32_t offset, std::span<uint8_t> data) {
  const spec::BlockConfig config{
      .capacity = backend_->size() / spec::kSectorSize,
      .size_max = 0,
      .seg_max = block::kMaxSegments,
      .cylinders = 0,
      .heads = 0,
      .sectors = 0,
      .block_size = spec::kSectorSize,
      .physical_block_exponent = 0,
      .alignment_offset = 0,
      .min_io_size = 0,
      .optimal_io_size = 0,
      .writeback = 0,
      .unused0 = 0,
      .queue_count = 1,
      .max_discard_sectors = block::kMaxDiscardSectors,
      .max_discard_segments = block::kMaxDiscardRanges,
      .discard_sector_alignment = 1,
      .max_write_zeroes_sectors = block::kMaxZeroSectors,
      .max_write_zeroes_segments = block::kMaxZeroRanges,
      .write_zeroes_may_unmap = 1,
      .unused1 = {},
  };
  std::memcpy(data.data(), reinterpret_cast<const uint8_t*>(&config) + offset, data.size());
}

Result<void> Block::start_queue(uint16_t, QueueResources resources, uint64_t features) {
  disk_.features = features;
  return requests_.start(std::move(resources));
}

std::optional<QueueState> Block::stop_queue(uint16_t) {
  return requests_.stop();
}

Result<std::optional<uint64_t>> Block::serve(const Chain& chain) {
  const block::Request request = TRY(block::parse(chain, disk_));
  const Result<void> result = run(request, chain);
  if (!result && complaints_.allow()) log_error("disk {}: {}", options_.id, result.error().text());
  const block::Finished finished = block::finish(request.pending, result);
  const auto status = static_cast<std::byte>(finished.status);
  TRY(chain.write(request.pending.status_offset, std::span(&status, 1)));
  return finished.written;
}

Result<void> Block::run(const block::Request& request, const Chain& chain) {
  switch (request.pending.kind) {
    case Kind::kRead:
      return backend_->read(request.buffers, request.offset);
    case Kind::kWrite:
      TRY(backend_->write(request.buffers, request.offset));
      break;
    case Kind::kFlush:
      return backend_->flush();
    case Kind::kDiscard:
      for (const block::Range& range : request.ranges)
        TRY(backend_->discard(range.offset, range.size));
      return {};
    case Kind::kWriteZeroes:
      for (const block::Range& range : request.ranges)
        TRY(backend_->write_zeroes(range.offset, range.size, range.may_unmap));
      break;
    case Kind::kIdentify:
      return identify(chain);
    case Kind::kRefused:
      return {};
  }
  // Section 5.2.6.2: without FLUSH the driver takes a completed write for a durable one.
  if ((disk_.features & spec::kBlockFeatureFlush) == 0) TRY(backend_->flush());
  return {};
}

Result<void> Block::identify(const Chain& chain) {
  std::array<std::byte, spec::kBlockIdSize> id{};
  std::memcpy(id.data(), options_.id.data(), std::min(options_.id.size(), id.size()));
  TRY(chain.write(0, id));
  return {};
}

}  // namespace hutch::virtio
