// LayeredBackend::shorten(): the upper ones of many frozen layers leave a disk. What they have goes
// into the private delta, in an order in which every moment reads the same: first the data, of
// which nobody knows yet, then the map, then what the private delta says it lies over.
#include <algorithm>
#include <cstring>

#include "virtio/block/layered.h"

namespace hutch::virtio::block {
namespace {

constexpr uint64_t kCluster = Delta::kClusterSize;
constexpr uint64_t kCopiedAtOnce = 256 * kCluster;

bool is_zero(std::span<const std::byte> bytes) {
  return bytes[0] == std::byte{0} &&
         std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0;
}

}  // namespace

// Each that is kept has more than all above it together. So large layers are not copied again with
// every small one that comes: copying a cluster at least doubles the layer that it is in, once
// nothing small lies under that.
size_t LayeredBackend::count_to_keep(size_t most) const {
  const std::vector<uint64_t> counts = map_.counts(top());
  uint64_t above = 0;
  for (uint64_t count : counts) above += count;
  size_t keep = 0;
  while (keep < most && counts[keep + 1] > above - counts[keep + 1]) above -= counts[++keep];
  return keep;
}

// Calls each(first, end) with the longest runs of clusters that frozen layers above the first
// `keep` have.
template <typename Each>
Result<void> LayeredBackend::for_runs_above(size_t keep, Each each) {
  const uint64_t count = layers_.back().clusters();
  auto leaves = [&](uint64_t at) { return map_.owner(at) > keep && map_.owner(at) != top(); };
  for (uint64_t at = 0; at < count;) {
    const uint64_t first = at;
    while (at < count && leaves(at)) at = map_.end_of_run(at, count);
    if (at > first) TRY(each(first, at));
    if (at < count) at = map_.end_of_run(at, count);
  }
  return {};
}

// Whole clusters, no more than `space` takes. Those of zeros become holes, also where there is one
// already: the file may hold what a power cut has left.
Result<void> LayeredBackend::copy_up(uint64_t first, uint64_t end, std::span<std::byte> space) {
  const uint64_t from = first * kCluster;
  std::span<std::byte> bytes = space.first(std::min(end * kCluster, size()) - from);
  iovec all{bytes.data(), bytes.size()};
  TRY(read(std::span(&all, 1), from));
  auto is_hole = [&](uint64_t at) {
    return is_zero(bytes.subspan(at, std::min(kCluster, bytes.size() - at)));
  };
  for (uint64_t at = 0; at < bytes.size();) {
    const bool hole = is_hole(at);
    uint64_t run_end = at + kCluster;
    while (run_end < bytes.size() && is_hole(run_end) == hole) run_end += kCluster;
    std::span<std::byte> run = bytes.subspan(at, std::min(run_end, bytes.size()) - at);
    iovec buffer{run.data(), run.size()};
    if (hole)
      TRY(file(top()).write_zeroes(place(top(), from + at), run.size(), true));
    else
      TRY(file(top()).write(std::span(&buffer, 1), place(top(), from + at)));
    at = run_end;
  }
  return {};
}

Result<void> LayeredBackend::shorten(size_t many, Durability durability) {
  if (marks_.size() < many || marks_.empty()) return {};
  const size_t keep = count_to_keep(many / 2);
  auto space = std::make_unique<std::byte[]>(kCopiedAtOnce);
  is_written_ = true;
  Result<void> copied = for_runs_above(keep, [&](uint64_t first, uint64_t end) -> Result<void> {
    for (; first < end; first += kCopiedAtOnce / kCluster)
      TRY(copy_up(first, std::min(end, first + kCopiedAtOnce / kCluster),
                  std::span(space.get(), kCopiedAtOnce)));
    return {};
  });
  if (!copied) {
    // Where it failed for want of space it must not go on wanting it; nobody looks at these places.
    (void)for_runs_above(keep, [&](uint64_t first, uint64_t end) -> Result<void> {
      const uint64_t from = first * kCluster;
      (void)file(top()).discard(place(top(), from), std::min(end * kCluster, size()) - from);
      return {};
    });
    return copied;
  }
  // From here on the private delta has them, whatever else may fail.
  TRY(for_runs_above(keep, [&](uint64_t first, uint64_t end) -> Result<void> {
    take(first, end);
    return {};
  }));
  // Before the header: with the layers that it names then, the bits have to be there.
  if (durability == Durability::kFlushed) TRY(flush());
  TRY(layers_.back().put_over(layers_[keep].header().below));
  is_written_ = true;
  map_.renumber(top(), static_cast<LayerNumber>(keep + 1));
  layers_.erase(layers_.begin() + static_cast<ptrdiff_t>(keep), layers_.end() - 1);
  marks_.resize(keep);
  // What the others had, and no flush has covered, is the private delta's now.
  std::erase_if(unsynced_, [&](size_t index) { return index >= keep; });
  return {};
}

}  // namespace hutch::virtio::block
