// The private copy of a disk template: sparse stays sparse, and the file has no name.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "base/fd.h"

namespace hutch::lib {

struct Extent {
  uint64_t offset = 0;  // bytes
  uint64_t size = 0;
};

// Copies the file `source` to an unlinked file in `folder`: shares its blocks where the file system
// can, else copies `extents` or, when that is empty, what SEEK_DATA finds. The copy has the size of
// the source and reads as zero elsewhere.
Result<Fd> private_copy(int source, const std::string& folder, std::span<const Extent> extents);
// The same into the empty file `target`.
Result<void> copy_disk(int source, int target, std::span<const Extent> extents);

}  // namespace hutch::lib
