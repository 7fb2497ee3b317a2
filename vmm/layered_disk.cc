#include "vmm/layered_disk.h"

#include <unistd.h>

#include <cerrno>

#include "base/sys.h"
#include "virtio/block/file.h"
#include "vmm/saved_machine.h"

namespace hutch::vmm {

using virtio::block::Backend;
using virtio::block::Delta;
using virtio::block::Durability;
using virtio::block::FileBackend;
using virtio::block::LayeredBackend;
using virtio::block::LayerId;

namespace {

Result<Delta> make_delta(Fd file, const Delta::Header& header) {
  const uint64_t size = Delta::file_size(header.disk_size);
  if (::ftruncate(file.get(), static_cast<off_t>(size)) < 0)
    return fail_errno(errno,
                      fmt::format("making a disk's layer of {} bytes, nearly all of them "
                                  "holes",
                                  size),
                      "name a scratch folder whose file system has sparse files of that size");
  return Delta::create(FileBackend::of_size(std::move(file), size), header);
}

// The layer that the machine writes to: made in an empty file, else what the file holds.
Result<Delta> open_top(Fd file, uint64_t disk_size, const LayerId& below) {
  const uint64_t length = TRY(file_size(file.get()));
  if (length != 0) return Delta::open(TRY(FileBackend::create(std::move(file))));
  const LayerId id = TRY(new_layer_id());
  return make_delta(std::move(file), {.disk_size = disk_size, .id = id, .below = below});
}

}  // namespace

Result<LayerId> new_layer_id() {
  LayerId id;
  TRY(fill_random(id));
  return id;
}

Result<std::unique_ptr<LayeredBackend>> open_layered(protocol::vmm::Disk disk) {
  std::unique_ptr<Backend> base = TRY(FileBackend::create(std::move(disk.file)));
  std::vector<Delta> frozen;
  LayerId below = TRY(LayeredBackend::base_id(*base));
  for (Fd& layer : disk.layers) {
    frozen.push_back(TRY(Delta::open(TRY(FileBackend::create(std::move(layer))))));
    below = frozen.back().header().id;
  }
  Delta top = TRY(open_top(std::move(disk.delta), base->size(), below));
  return LayeredBackend::create(std::move(base), std::move(frozen), std::move(top));
}

Result<void> freeze_disk(LayeredBackend& disk, protocol::vmm::FreezeDisk& files,
                         const LayerId& fresh_id, size_t many, protocol::vmm::DiskLayers& layers) {
  layers.kept = static_cast<uint32_t>(disk.frozen().size());
  if (disk.is_top_empty()) return {};
  const uint64_t size = Delta::file_size(disk.size());
  TRY(disk.shorten(many, Durability::kCached));
  layers.kept = static_cast<uint32_t>(disk.frozen().size());
  Delta frozen = TRY(Delta::open(FileBackend::of_size(std::move(files.frozen), size)));
  Delta fresh = TRY(make_delta(std::move(files.fresh),
                               {.disk_size = disk.size(), .id = fresh_id, .below = disk.top_id()}));
  TRY(disk.freeze(std::move(frozen), std::move(fresh), Durability::kCached));
  layers.is_frozen = true;
  return {};
}

snapshot::SavedDisk save_disk(const LayeredBackend& disk) {
  snapshot::SavedDisk saved;
  for (const virtio::block::LayerMark& mark : disk.frozen())
    saved.layers.push_back({{mark.id.begin(), mark.id.end()}, mark.bitmap_hash});
  return saved;
}

Result<void> check_disk(const LayeredBackend& disk, const snapshot::SavedDisk& saved) {
  if (save_disk(disk) == saved) return {};
  return fail("a disk has other layers than the machine was saved with",
              "give the files that were kept when it was saved, unchanged");
}

}  // namespace hutch::vmm
