#include "virtio/block/cluster_map.h"

#include <algorithm>
#include <cstring>

namespace hutch::virtio::block {
namespace {
constexpr uint64_t kPerBlock = Delta::kClustersPerBlock;
}

ClusterMap::ClusterMap(uint64_t clusters)
    : clusters_(clusters), parts_((clusters + kPerBlock - 1) / kPerBlock) {}

ClusterMap::Part& ClusterMap::part(uint64_t block) {
  if (parts_[block] == nullptr) parts_[block] = std::make_unique<Part>();
  return *parts_[block];
}

LayerNumber ClusterMap::owner(uint64_t cluster) const {
  const auto& part = parts_[cluster / kPerBlock];
  return part == nullptr ? LayerNumber{0} : (*part)[cluster % kPerBlock];
}

uint64_t ClusterMap::end_of_run(uint64_t cluster, uint64_t end) const {
  const LayerNumber same = owner(cluster);
  while (cluster < end) {
    const uint64_t block = cluster / kPerBlock;
    const uint64_t block_end = std::min(end, (block + 1) * kPerBlock);
    const auto& part = parts_[block];
    if (part == nullptr) {
      if (same != 0) return cluster;
      cluster = block_end;
      continue;
    }
    for (; cluster < block_end; cluster++)
      if ((*part)[cluster % kPerBlock] != same) return cluster;
  }
  return end;
}

void ClusterMap::take(uint64_t first, uint64_t end, LayerNumber layer) {
  while (first < end) {
    const uint64_t block = first / kPerBlock;
    const uint64_t block_end = std::min(end, (block + 1) * kPerBlock);
    std::memset(part(block).data() + first % kPerBlock, layer, block_end - first);
    first = block_end;
  }
}

Result<void> ClusterMap::take_block(uint64_t block, const Delta::Block& bits, LayerNumber layer) {
  Part* owners = nullptr;
  for (size_t at = 0; at < bits.size(); at += sizeof(uint64_t)) {
    uint64_t word;
    std::memcpy(&word, bits.data() + at, sizeof word);
    if (word == 0) continue;
    if (owners == nullptr) owners = &part(block);
    for (size_t bit = 0; bit < 64; bit++) {
      if ((word >> bit & 1) == 0) continue;
      const uint64_t index = at * 8 + bit;
      if (block * kPerBlock + index >= clusters_)
        return fail("a layer of a disk says that it has what lies beyond the disk's end",
                    "remove it and what was saved with it, and make it anew");
      (*owners)[index] = layer;
    }
  }
  return {};
}

Delta::Block ClusterMap::bits(uint64_t block, LayerNumber layer) const {
  Delta::Block bits{};
  if (parts_[block] == nullptr) return bits;
  const Part& owners = *parts_[block];
  for (size_t at = 0; at < bits.size(); at++) {
    unsigned byte = 0;
    for (size_t bit = 0; bit < 8; bit++)
      byte |= static_cast<unsigned>(owners[at * 8 + bit] == layer) << bit;
    bits[at] = static_cast<std::byte>(byte);
  }
  return bits;
}

std::vector<uint64_t> ClusterMap::counts(LayerNumber last) const {
  std::vector<uint64_t> counts(last + size_t{1});
  for (const auto& part : parts_) {
    if (part == nullptr) continue;
    for (LayerNumber owner : *part) counts[owner]++;
  }
  counts[0] = 0;
  return counts;
}

void ClusterMap::renumber(LayerNumber from, LayerNumber to) {
  for (const auto& part : parts_)
    if (part != nullptr) std::replace(part->begin(), part->end(), from, to);
}

}  // namespace hutch::virtio::block
