#include "virtio/block/delta.h"

#include <cstring>

#include "base/wire.h"
#include "snapshot/siphash.h"
#include "virtio/spec.h"

namespace hutch::virtio::block {
namespace {

constexpr std::array<char, 8> kMagic{'H', 'U', 'T', 'C', 'H', 'D', 'L', 'T'};
constexpr uint32_t kVersion = 1;
constexpr const char* kRemedy = "remove it and what was saved with it, and make it anew";

struct WireHeader {
  std::array<char, 8> magic;
  le32 version;
  le32 cluster_size;
  le64 disk_size;
  LayerId id;
  LayerId below;
  le64 hash;  // of all before it: against damage, not against anybody
};
static_assert(sizeof(WireHeader) == 64 && sizeof(WireHeader) <= spec::kSectorSize);

uint64_t hash_of(const WireHeader& header) {
  return snapshot::siphash(
      {}, std::as_bytes(std::span(&header, 1)).first(sizeof header - sizeof header.hash));
}

Result<void> check_size(uint64_t disk_size) {
  if (disk_size == 0 || disk_size % spec::kSectorSize != 0 || disk_size > Delta::kMaxDiskSize)
    return fail(fmt::format("a layer of a disk of {} bytes", disk_size),
                "a disk with layers has whole sectors and at most 4 TiB");
  return {};
}

Result<void> write_header(Backend& file, const Delta::Header& header) {
  std::array<std::byte, spec::kSectorSize> sector{};
  WireHeader wire{.magic = kMagic,
                  .version = kVersion,
                  .cluster_size = static_cast<uint32_t>(Delta::kClusterSize),
                  .disk_size = header.disk_size,
                  .id = header.id,
                  .below = header.below,
                  .hash = 0};
  wire.hash = hash_of(wire);
  std::memcpy(sector.data(), &wire, sizeof wire);
  iovec buffer{sector.data(), sector.size()};
  return file.write(std::span(&buffer, 1), 0);
}

}  // namespace

uint64_t Delta::file_size(uint64_t disk_size) {
  const uint64_t clusters = (disk_size + kClusterSize - 1) / kClusterSize;
  const uint64_t blocks = (clusters + kClustersPerBlock - 1) / kClustersPerBlock;
  return kBlockSize * (1 + blocks) + disk_size;
}

Result<Delta> Delta::create(std::unique_ptr<Backend> file, const Header& header) {
  TRY(check_size(header.disk_size));
  if (file->size() < file_size(header.disk_size))
    return fail("the file of a new layer is too short");
  TRY_CONTEXT("a new layer of a disk", write_header(*file, header));
  return Delta(std::move(file), header);
}

Result<Delta> Delta::open(std::unique_ptr<Backend> file) {
  std::array<std::byte, spec::kSectorSize> sector;
  if (file->size() < kBlockSize) return fail("a layer of a disk has no header", kRemedy);
  iovec buffer{sector.data(), sector.size()};
  TRY_CONTEXT("a layer of a disk", file->read(std::span(&buffer, 1), 0));
  WireHeader wire;
  std::memcpy(&wire, sector.data(), sizeof wire);
  if (wire.magic != kMagic) return fail("a layer of a disk is no file of ours", kRemedy);
  if (wire.version != kVersion)
    return fail(fmt::format("a layer of a disk has version {}, this program reads {}",
                            uint32_t{wire.version}, kVersion),
                "use the release of hutch that made it");
  if (wire.hash != hash_of(wire)) return fail("the header of a disk's layer is damaged", kRemedy);
  if (wire.cluster_size != kClusterSize)
    return fail(fmt::format("a layer of a disk has clusters of {} bytes, not {}",
                            uint32_t{wire.cluster_size}, kClusterSize),
                "use the release of hutch that made it");
  const Header header{.disk_size = wire.disk_size, .id = wire.id, .below = wire.below};
  TRY(check_size(header.disk_size));
  if (file->size() < file_size(header.disk_size))
    return fail(fmt::format("a layer of a disk was cut off: its file has {} bytes of {}",
                            file->size(), file_size(header.disk_size)),
                kRemedy);
  return Delta(std::move(file), header);
}

Result<void> Delta::put_over(const LayerId& below) {
  Header header = header_;
  header.below = below;
  TRY_CONTEXT("a layer of a disk", write_header(*file_, header));
  header_ = header;
  return {};
}

Result<void> Delta::read_bitmap(uint64_t first, std::span<Block> blocks) {
  iovec buffer{blocks.data(), blocks.size_bytes()};
  return file_->read(std::span(&buffer, 1), kBlockSize * (1 + first));
}

Result<void> Delta::write_bitmap(uint64_t first, std::span<const Block> blocks) {
  iovec buffer{const_cast<Block*>(blocks.data()), blocks.size_bytes()};
  return file_->write(std::span(&buffer, 1), kBlockSize * (1 + first));
}

}  // namespace hutch::virtio::block
