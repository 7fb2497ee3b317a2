// Delta: a file with what was written over a disk, apart from the disk; our own format, version 1.
//
//   header   one block: "HUTCHDLT", le32 version, le32 cluster size, le64 size of the disk, the
//            layer's own id, the id of what lies below, le64 hash of all that; zeros
//   bitmap   whole blocks, a bit for each cluster of the disk, lowest bit first: the layer has it
//   data     the clusters, each as far from the start of the data as on the disk; holes elsewhere
//
// A block and a cluster are 4096 bytes. The header lies in one sector; it is written anew only when
// the layer is put over another one. Where a bit is clear the data means nothing: it may be a hole,
// or what was not flushed before a power cut. What a file holds is not trusted: everything is
// checked against the size that it has.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "virtio/block/backend.h"

namespace hutch::virtio::block {

// Tells layers apart; random, but for that of a base (layered.h).
using LayerId = std::array<std::byte, 16>;

class Delta {
 public:
  static constexpr uint64_t kClusterSize = 4096;
  static constexpr uint64_t kBlockSize = 4096;
  static constexpr uint64_t kClustersPerBlock = kBlockSize * 8;
  // The bitmap of a larger disk would take too long to read at a start.
  static constexpr uint64_t kMaxDiskSize = uint64_t{4} << 40;
  using Block = std::array<std::byte, kBlockSize>;

  struct Header {
    uint64_t disk_size = 0;  // bytes, whole sectors
    LayerId id{};
    LayerId below{};
  };

  // How long the file of a delta is; the disk is no larger than kMaxDiskSize.
  static uint64_t file_size(uint64_t disk_size);
  // Writes the header of an empty delta into `file`, which has that size and reads as zeros. It is
  // durable when the file has been flushed.
  static Result<Delta> create(std::unique_ptr<Backend> file, const Header& header);
  // Errors: no delta, one of another version, or one that is damaged or shorter than it says.
  static Result<Delta> open(std::unique_ptr<Backend> file);

  const Header& header() const { return header_; }
  // In clusters; the last one may be a part.
  uint64_t clusters() const { return (header_.disk_size + kClusterSize - 1) / kClusterSize; }
  // Of the bitmap, in blocks.
  uint64_t bitmap_blocks() const {
    return (clusters() + kClustersPerBlock - 1) / kClustersPerBlock;
  }
  // `blocks` are those from the block `first` on, all inside the bitmap.
  Result<void> read_bitmap(uint64_t first, std::span<Block> blocks);
  Result<void> write_bitmap(uint64_t first, std::span<const Block> blocks);
  // Writes the header anew: the layer lies over `below` from now on.
  Result<void> put_over(const LayerId& below);
  Backend& file() { return *file_; }
  // Where byte 0 of the disk would be in the file.
  uint64_t data_offset() const { return kBlockSize * (1 + bitmap_blocks()); }

 private:
  Delta(std::unique_ptr<Backend> file, const Header& header)
      : file_(std::move(file)), header_(header) {}

  std::unique_ptr<Backend> file_;
  Header header_;
};

}  // namespace hutch::virtio::block
