// ClusterMap: which layer of a disk has each cluster; in memory only where any layer has one.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "virtio/block/delta.h"

namespace hutch::virtio::block {

// Layers are numbered from below: 0 is the base, which has what nobody else has.
using LayerNumber = uint8_t;

class ClusterMap {
 public:
  explicit ClusterMap(uint64_t clusters);

  LayerNumber owner(uint64_t cluster) const;
  // The first cluster after `cluster`, at most `end`, that another layer has.
  uint64_t end_of_run(uint64_t cluster, uint64_t end) const;
  // `layer` has the clusters from `first` to before `end` from now on.
  void take(uint64_t first, uint64_t end, LayerNumber layer);
  // The same for each bit of a block of the layer's bitmap. Errors: bits beyond the last cluster.
  Result<void> take_block(uint64_t block, const Delta::Block& bits, LayerNumber layer);
  // The block of the bitmap of what `layer` has.
  Delta::Block bits(uint64_t block, LayerNumber layer) const;
  bool has_any(uint64_t block) const { return parts_[block] != nullptr; }
  // How many clusters each layer has, up to number `last`; those of the base are not counted.
  std::vector<uint64_t> counts(LayerNumber last) const;
  // What `from` has is `to`'s from now on, which had nothing before.
  void renumber(LayerNumber from, LayerNumber to);

 private:
  using Part = std::array<LayerNumber, Delta::kClustersPerBlock>;
  Part& part(uint64_t block);

  uint64_t clusters_;
  std::vector<std::unique_ptr<Part>> parts_;  // by block of the bitmap; null: all are the base's
};

}  // namespace hutch::virtio::block
