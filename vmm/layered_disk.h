// Disks of layers: from the descriptors of a launcher, and into and out of a saved machine.
#pragma once

#include "protocol/vmm.h"
#include "snapshot/state.h"
#include "virtio/block/layered.h"

namespace hutch::vmm {

// A disk over `disk.file` and `disk.layers` whose writes go to `disk.delta`: an empty file becomes
// a new delta, another one has to be one made over the same layers.
Result<std::unique_ptr<virtio::block::LayeredBackend>> open_layered(protocol::vmm::Disk disk);

// Random, for a layer that is about to be made.
Result<virtio::block::LayerId> new_layer_id();

// On the disk's loop, with its queue stopped: see LayeredBackend::freeze(). The disk has at most
// `many` frozen layers afterwards. The file that is frozen is not made durable: whoever keeps it
// does that. `layers` says what the disk goes on with, also after an error.
Result<void> freeze_disk(virtio::block::LayeredBackend& disk, protocol::vmm::FreezeDisk& files,
                         const virtio::block::LayerId& fresh_id, size_t many,
                         protocol::vmm::DiskLayers& layers);

snapshot::SavedDisk save_disk(const virtio::block::LayeredBackend& disk);
// Errors: the disk has other layers than the saved one had.
Result<void> check_disk(const virtio::block::LayeredBackend& disk,
                        const snapshot::SavedDisk& saved);

}  // namespace hutch::vmm
