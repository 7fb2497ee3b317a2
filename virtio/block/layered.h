// LayeredBackend: a disk of layers: a base that many disks share, frozen deltas that some share,
// and a private delta over them that takes all writes.
//
// Power cuts. What a completed flush covers is there afterwards; each sector that was written since
// has its old content or one of the new ones. So a flush makes the data durable first, and only
// then the bits that point at it. A cluster that is written to in part gets the rest from below, in
// the same write.
//
// freeze() makes the private delta one of the frozen layers, for others to share, and goes on with
// an empty one: nothing is copied. shorten(), before that, takes the upper ones of many frozen
// layers off the disk; their files stay as they are for those that share them.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "virtio/block/cluster_map.h"
#include "virtio/block/delta.h"

namespace hutch::virtio::block {

// A frozen layer, as it has to be when it is used again.
struct LayerMark {
  LayerId id{};
  uint64_t bitmap_hash = 0;
  bool operator==(const LayerMark&) const = default;
};

// Whether what freeze() leaves survives a power cut as a whole.
enum class Durability {
  kFlushed,  // it does, as after flush()
  kCached,   // when the files have been flushed; a power cut before costs what older flushes kept
};

class LayeredBackend final : public Backend {
 public:
  // A descriptor for each layer, and reads go through all of their bitmaps at a start.
  static constexpr size_t kMaxFrozen = 64;
  // As many as a disk that goes on should have: each of its forks keeps that many descriptors, and
  // what is copied when there are more serves for at least half as many freezes.
  static constexpr size_t kManyFrozen = 32;

  // Stands for a base, which has no id in it, in the delta above: the disk's size and a hash of
  // where file systems describe themselves. Reads from it.
  static Result<LayerId> base_id(Backend& base);

  // `frozen` from below, each one made over the one before it; `top` over the last of them, or over
  // the base. Errors: layers that do not belong together, or are damaged; too many.
  static Result<std::unique_ptr<LayeredBackend>> create(std::unique_ptr<Backend> base,
                                                        std::vector<Delta> frozen, Delta top);

  uint64_t size() const override { return base_->size(); }
  Result<void> read(std::span<const iovec> buffers, uint64_t offset) override;
  Result<void> write(std::span<const iovec> buffers, uint64_t offset) override;
  Result<void> flush() override;
  // Gives space back that the private delta has; whatever a layer below has stays.
  Result<void> discard(uint64_t offset, uint64_t size) override;
  Result<void> write_zeroes(uint64_t offset, uint64_t size, bool may_unmap) override;

  // Of the frozen layers, from below.
  const std::vector<LayerMark>& frozen() const { return marks_; }
  const LayerId& top_id() const { return layers_.back().header().id; }
  // Whether the private delta has nothing, so that the frozen layers are the whole disk.
  bool is_top_empty() const { return map_.counts(top())[top()] == 0; }
  // Where there are `many` frozen layers, or more: copies what the upper ones of them have, and
  // nobody above, into the private delta, which lies directly over the others then; at most
  // half as many. Errors leave a disk that reads the same, with the layers that it had.
  Result<void> shorten(size_t many, Durability durability);
  // The private delta is frozen with what it has now. `frozen` is a read-only view of its file,
  // used from now on; `fresh`, made over it, takes what is written next. Returns the old delta,
  // whose file nobody writes to any more. Errors leave the disk as it was: the bound on layers,
  // files that do not fit, and what flush() may say.
  Result<Delta> freeze(Delta frozen, Delta fresh, Durability durability);

 private:
  LayeredBackend(std::unique_ptr<Backend> base, std::vector<Delta> layers);
  Result<void> load(size_t index, uint64_t* hash);
  Backend& file(LayerNumber layer) { return layer == 0 ? *base_ : layers_[layer - 1u].file(); }
  uint64_t place(LayerNumber layer, uint64_t offset) const {
    return layer == 0 ? offset : layers_[layer - 1u].data_offset() + offset;
  }
  LayerNumber top() const { return static_cast<LayerNumber>(layers_.size()); }
  Result<void> read_cluster_part(uint64_t offset, std::span<std::byte> bytes);
  Result<void> write_plain_zeroes(uint64_t offset, uint64_t size);
  void take(uint64_t first, uint64_t end);
  Result<void> sync(Backend& file);
  Result<void> write_bits();
  uint64_t hash_bits(LayerNumber layer) const;
  size_t count_to_keep(size_t most) const;
  template <typename Each>
  Result<void> for_runs_above(size_t keep, Each each);
  Result<void> copy_up(uint64_t first, uint64_t end, std::span<std::byte> space);

  std::unique_ptr<Backend> base_;
  std::vector<Delta> layers_;  // frozen ones, then the private one
  std::vector<LayerMark> marks_;
  ClusterMap map_;
  std::vector<bool> changed_;     // blocks of the private bitmap that the file does not have yet
  bool is_written_ = false;       // since the last flush
  std::vector<size_t> unsynced_;  // indices of frozen layers that no flush has covered
  bool is_lost_ = false;          // a flush failed: what it should have covered may be gone
};

}  // namespace hutch::virtio::block
