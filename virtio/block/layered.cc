#include "virtio/block/layered.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/wire.h"
#include "snapshot/siphash.h"
#include "virtio/spec.h"

namespace hutch::virtio::block {
namespace {

constexpr uint64_t kCluster = Delta::kClusterSize;
constexpr uint64_t kDescribed = 8192;  // bytes at the start of a base that stand for it
constexpr size_t kBlocksAtOnce = 16;
constexpr const char* kRemedy = "give the layers that belong together, from below";

uint64_t round_up(uint64_t value) {
  return (value + kCluster - 1) / kCluster * kCluster;
}
uint64_t round_down(uint64_t value) {
  return value / kCluster * kCluster;
}

// Cuts a request's buffers into pieces, in order.
class Pieces {
 public:
  explicit Pieces(std::span<const iovec> buffers) : left_(buffers) {}
  std::span<const iovec> take(uint64_t size) {
    piece_.clear();
    while (size > 0 && !left_.empty()) {
      const iovec& next = left_.front();
      const size_t part = std::min<uint64_t>(size, next.iov_len - used_);
      if (part > 0) piece_.push_back({static_cast<std::byte*>(next.iov_base) + used_, part});
      used_ += part;
      size -= part;
      if (used_ == next.iov_len) {
        left_ = left_.subspan(1);
        used_ = 0;
      }
    }
    return piece_;
  }

 private:
  std::span<const iovec> left_;
  size_t used_ = 0;  // of the first one
  std::vector<iovec> piece_;
};

uint64_t total(std::span<const iovec> buffers) {
  uint64_t size = 0;
  for (const iovec& buffer : buffers) size += buffer.iov_len;
  return size;
}

// Over the blocks of a bitmap that have bits, so that holes cost nothing.
uint64_t add_to_hash(uint64_t hash, uint64_t block, const Delta::Block& bits) {
  struct {
    le64 before, block;
    Delta::Block bits;
  } input{hash, block, bits};
  static_assert(sizeof input == 16 + sizeof bits);
  return snapshot::siphash({}, std::as_bytes(std::span(&input, 1)));
}

bool is_empty(const Delta::Block& bits) {
  static constexpr Delta::Block kNone{};
  return std::memcmp(bits.data(), kNone.data(), bits.size()) == 0;
}

}  // namespace

Result<LayerId> LayeredBackend::base_id(Backend& base) {
  std::array<std::byte, kDescribed> bytes{};
  iovec buffer{bytes.data(), std::min<uint64_t>(base.size(), bytes.size())};
  TRY_CONTEXT("the base of a disk", base.read(std::span(&buffer, 1), 0));
  const std::array<le64, 2> words{base.size(), snapshot::siphash({}, bytes)};
  LayerId id;
  static_assert(sizeof words == sizeof id);
  std::memcpy(id.data(), words.data(), id.size());
  return id;
}

LayeredBackend::LayeredBackend(std::unique_ptr<Backend> base, std::vector<Delta> layers)
    : base_(std::move(base)),
      layers_(std::move(layers)),
      map_(layers_.back().clusters()),
      changed_(layers_.back().bitmap_blocks()) {}

Result<std::unique_ptr<LayeredBackend>> LayeredBackend::create(std::unique_ptr<Backend> base,
                                                               std::vector<Delta> frozen,
                                                               Delta top) {
  if (frozen.size() > kMaxFrozen)
    return fail(fmt::format("a disk of {} frozen layers; at most {} are possible", frozen.size(),
                            kMaxFrozen));
  std::vector<Delta> layers = std::move(frozen);
  layers.push_back(std::move(top));
  LayerId below = TRY(base_id(*base));
  for (size_t i = 0; i < layers.size(); i++) {
    const Delta::Header& header = layers[i].header();
    if (header.disk_size != base->size())
      return fail(fmt::format("layer {} is of a disk of {} bytes, the base has {}", i,
                              header.disk_size, base->size()),
                  kRemedy);
    if (header.below != below)
      return fail(
          fmt::format("layer {} of a disk was made over another one than what it is given", i),
          kRemedy);
    below = header.id;
  }
  std::unique_ptr<LayeredBackend> self(new LayeredBackend(std::move(base), std::move(layers)));
  for (size_t i = 0; i < self->layers_.size(); i++) {
    uint64_t hash = 0;
    TRY(self->load(i, &hash));
    if (i + 1 < self->layers_.size()) self->marks_.push_back({self->layers_[i].header().id, hash});
  }
  return self;
}

// Reads the bitmap of a layer over those below it.
Result<void> LayeredBackend::load(size_t index, uint64_t* hash) {
  Delta& layer = layers_[index];
  auto blocks = std::make_unique<std::array<Delta::Block, kBlocksAtOnce>>();
  const uint64_t count = layer.bitmap_blocks();
  for (uint64_t first = 0; first < count; first += kBlocksAtOnce) {
    std::span<Delta::Block> some =
        std::span(*blocks).first(std::min<uint64_t>(kBlocksAtOnce, count - first));
    TRY_CONTEXT("a layer of a disk", layer.read_bitmap(first, some));
    for (size_t i = 0; i < some.size(); i++) {
      if (is_empty(some[i])) continue;
      *hash = add_to_hash(*hash, first + i, some[i]);
      TRY(map_.take_block(first + i, some[i], static_cast<LayerNumber>(index + 1)));
    }
  }
  return {};
}

Result<void> LayeredBackend::read(std::span<const iovec> buffers, uint64_t offset) {
  Pieces pieces(buffers);
  const uint64_t end = offset + total(buffers);
  while (offset < end) {
    const uint64_t cluster = offset / kCluster;
    const uint64_t last = (end + kCluster - 1) / kCluster;
    const uint64_t run_end = std::min(end, map_.end_of_run(cluster, last) * kCluster);
    const LayerNumber layer = map_.owner(cluster);
    TRY(file(layer).read(pieces.take(run_end - offset), place(layer, offset)));
    offset = run_end;
  }
  return {};
}

// `bytes` lie in one cluster.
Result<void> LayeredBackend::read_cluster_part(uint64_t offset, std::span<std::byte> bytes) {
  iovec buffer{bytes.data(), bytes.size()};
  return read(std::span(&buffer, 1), offset);
}

Result<void> LayeredBackend::write(std::span<const iovec> buffers, uint64_t offset) {
  const uint64_t end = offset + total(buffers);
  if (end == offset) return {};
  // What the first and the last cluster have beside the data, where that is not in the delta yet.
  std::array<std::byte, kCluster> before, after;
  uint64_t head = 0, tail = 0;
  if (map_.owner(offset / kCluster) != top()) head = offset % kCluster;
  if (map_.owner((end - 1) / kCluster) != top()) tail = std::min(round_up(end), size()) - end;
  std::vector<iovec> all;
  all.reserve(buffers.size() + 2);
  if (head > 0) {
    TRY(read_cluster_part(offset - head, std::span(before).first(head)));
    all.push_back({before.data(), head});
  }
  all.insert(all.end(), buffers.begin(), buffers.end());
  if (tail > 0) {
    TRY(read_cluster_part(end, std::span(after).first(tail)));
    all.push_back({after.data(), tail});
  }
  is_written_ = true;
  TRY(file(top()).write(all, place(top(), offset - head)));
  take(offset / kCluster, (end + kCluster - 1) / kCluster);
  return {};
}

// The private delta has these clusters now; the file does not say so before the next flush.
void LayeredBackend::take(uint64_t first, uint64_t end) {
  while (first < end) {
    const uint64_t block = first / Delta::kClustersPerBlock;
    const uint64_t block_end = std::min(end, (block + 1) * Delta::kClustersPerBlock);
    if (map_.owner(first) != top() || map_.end_of_run(first, block_end) != block_end) {
      map_.take(first, block_end, top());
      changed_[block] = true;
    }
    first = block_end;
  }
}

// After a failure the kernel takes the lost data for written: no later flush can promise it.
Result<void> LayeredBackend::sync(Backend& file) {
  Result<void> synced = file.flush();
  if (!synced) is_lost_ = true;
  return synced;
}

Result<void> LayeredBackend::write_bits() {
  for (uint64_t block = 0; block < changed_.size(); block++) {
    if (!changed_[block]) continue;
    const Delta::Block bits = map_.bits(block, top());
    TRY(layers_.back().write_bitmap(block, std::span(&bits, 1)));
  }
  return {};
}

Result<void> LayeredBackend::flush() {
  if (is_lost_)
    return fail("a disk could not be flushed before, so what was written to it may be lost",
                "look at the host's disk, and go on from an older copy");
  while (!unsynced_.empty()) {
    TRY(sync(layers_[unsynced_.back()].file()));
    unsynced_.pop_back();
  }
  if (!is_written_) return {};
  TRY(sync(layers_.back().file()));
  if (std::find(changed_.begin(), changed_.end(), true) != changed_.end()) {
    TRY(write_bits());
    TRY(sync(layers_.back().file()));
    changed_.assign(changed_.size(), false);
  }
  is_written_ = false;
  return {};
}

Result<void> LayeredBackend::discard(uint64_t offset, uint64_t size) {
  // Only whole clusters; a part of one costs more to keep than it gives back.
  uint64_t end = offset + size;
  if (end != this->size()) end = round_down(end);
  offset = round_up(offset);
  while (offset < end) {
    const uint64_t cluster = offset / kCluster;
    const uint64_t last = (end + kCluster - 1) / kCluster;
    const uint64_t run_end = std::min(end, map_.end_of_run(cluster, last) * kCluster);
    if (map_.owner(cluster) == top()) {
      is_written_ = true;
      TRY(file(top()).discard(place(top(), offset), run_end - offset));
    }
    offset = run_end;
  }
  return {};
}

Result<void> LayeredBackend::write_plain_zeroes(uint64_t offset, uint64_t size) {
  static constexpr std::array<std::byte, kCluster> kZeroes{};
  iovec buffer{const_cast<std::byte*>(kZeroes.data()), size};
  return write(std::span(&buffer, 1), offset);
}

Result<void> LayeredBackend::write_zeroes(uint64_t offset, uint64_t size, bool may_unmap) {
  const uint64_t end = offset + size;
  const uint64_t first = std::min(round_up(offset), end);
  if (first > offset) TRY(write_plain_zeroes(offset, first - offset));
  const uint64_t last = end == this->size() ? end : std::max(round_down(end), first);
  if (last > first) {
    // Also where the delta has nothing: its file may hold what a power cut has left.
    is_written_ = true;
    TRY(file(top()).write_zeroes(place(top(), first), last - first, may_unmap));
    take(first / kCluster, (last + kCluster - 1) / kCluster);
  }
  if (end > last) TRY(write_plain_zeroes(last, end - last));
  return {};
}

uint64_t LayeredBackend::hash_bits(LayerNumber layer) const {
  uint64_t hash = 0;
  for (uint64_t block = 0; block < changed_.size(); block++) {
    if (!map_.has_any(block)) continue;
    const Delta::Block bits = map_.bits(block, layer);
    if (!is_empty(bits)) hash = add_to_hash(hash, block, bits);
  }
  return hash;
}

Result<Delta> LayeredBackend::freeze(Delta frozen, Delta fresh, Durability durability) {
  if (marks_.size() >= kMaxFrozen)
    return fail(
        fmt::format("a disk has {} frozen layers already, as many as are possible", kMaxFrozen));
  if (frozen.header().id != top_id() || fresh.header().below != top_id() ||
      frozen.header().disk_size != size() || fresh.header().disk_size != size())
    return fail("a disk was given another file than its own to freeze");
  if (durability == Durability::kFlushed) {
    TRY(flush());
  } else {
    TRY(write_bits());
    if (is_written_) unsynced_.push_back(layers_.size() - 1);
  }
  changed_.assign(changed_.size(), false);
  marks_.push_back({top_id(), hash_bits(top())});
  std::swap(layers_.back(), frozen);
  layers_.push_back(std::move(fresh));
  is_written_ = true;  // the header of the fresh one
  return frozen;
}

}  // namespace hutch::virtio::block
