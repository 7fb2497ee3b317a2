// Machine: standing still, being saved, and going on from what was saved.
#include <unistd.h>

#include <algorithm>
#include <array>

#include "base/log.h"
#include "base/sys.h"
#include "boot/layout.h"
#include "kvm/saved_state.h"
#include "memory/memory_image.h"
#include "memory/written_pages.h"
#include "vmm/layered_disk.h"
#include "vmm/machine.h"
#include "vmm/saved_machine.h"

namespace hutch::vmm {

using protocol::vmm::EndReason;

Result<void> Machine::pause() {
  if (motion_ != Motion::kRunning) return fail("the machine is paused already");
  if (is_stopping_) return {};
  motion_ = Motion::kPausing;
  paused_threads_ = 0;
  for (auto& thread : threads_) thread->request_pause();
  return {};
}

void Machine::on_vcpu_paused() {
  if (is_stopping_ || motion_ != Motion::kPausing || ++paused_threads_ < threads_.size()) return;
  // The processors ask for nothing any more: what the devices have at hand is done here.
  for (VirtioDevice& device : virtio_) device.transport->pause();
  motion_ = Motion::kPaused;
  listener_.on_paused();
}

Result<void> Machine::resume() {
  if (is_stopping_) return {};
  if (motion_ != Motion::kPaused) return fail("the machine is not paused");
  for (VirtioDevice& device : virtio_) TRY(device.transport->resume());
  motion_ = Motion::kRunning;
  for (auto& thread : threads_) thread->resume();
  return {};
}

Result<protocol::vmm::Saved> Machine::save(protocol::vmm::Save save) {
  if (motion_ != Motion::kPaused) return fail("only a paused machine can be saved");
  protocol::vmm::Saved result;
  auto write = [&]() -> Result<void> {
    TRY(freeze_disks(std::move(save.disks), result.disks));
    std::vector<std::byte> file = snapshot::seal(snapshot::encode(TRY(save_state())), save.key);
    if (file.size() > snapshot::kMaxFile) return fail("the state of the machine is too large");
    TRY(write_all(save.state.get(), file));
    result.memory_bytes = TRY(write_memory_image(memory_, page_map_, save.memory.get()));
    return {};
  };
  if (Result<void> written = write(); !written) result.problem = written.error().text();
  return result;
}

protocol::vmm::PagesRecorded Machine::record_pages(int file) {
  protocol::vmm::PagesRecorded result;
  auto record = [&]() -> Result<void> {
    if (memory_.image() < 0) return fail("only a machine that was restored has such pages");
    std::vector<PagePiece> pieces = TRY(find_written(memory_, page_map_));
    for (const PagePiece& piece : pieces) result.bytes += piece.count * boot::kPageSize;
    return write_all(file, encode(pieces));
  };
  if (Result<void> recorded = record(); !recorded) result.problem = recorded.error().text();
  return result;
}

// At the moment at which memory and devices are saved: nothing moves.
Result<void> Machine::freeze_disks(std::vector<protocol::vmm::FreezeDisk> files,
                                   std::vector<protocol::vmm::DiskLayers>& layers) {
  // All of them have to fit into the Start that goes on from here.
  const auto count =
      layered_.size() - static_cast<size_t>(std::count(layered_.begin(), layered_.end(), nullptr));
  const size_t many = std::min(virtio::block::LayeredBackend::kManyFrozen,
                               protocol::vmm::kMaxLayers / std::max<size_t>(count, 1));
  uint32_t named = 0;
  for (protocol::vmm::FreezeDisk& each : files) {
    const uint32_t bit = each.disk < layered_.size() ? 1u << each.disk : 0;
    if (bit == 0 || layered_[each.disk] == nullptr || (named & bit) != 0)
      return fail(
          fmt::format("disk {} cannot be frozen: it has no layers, or is named twice", each.disk));
    named |= bit;
    const virtio::block::LayerId id = TRY(new_layer_id());
    protocol::vmm::DiskLayers& result = layers.emplace_back();
    result.disk = each.disk;
    Result<void> done;
    block_thread_->loop().run_on_loop(
        [&] { done = freeze_disk(*layered_[each.disk], each, id, many, result); });
    TRY_CONTEXT(fmt::format("disk {}", each.disk), std::move(done));
  }
  for (size_t disk = 0; disk < layered_.size(); disk++)
    if (layered_[disk] != nullptr && (named & 1u << disk) == 0)
      return fail(fmt::format("disk {} has layers, and is given no file to go on with", disk));
  return {};
}

Result<snapshot::SavedMachine> Machine::save_state() {
  // What a PIT counts is not kept, and kernels that need one have no use for a generation ID.
  if (environment_.uses_pic)
    return fail("a machine whose kernel knows no device tree cannot be saved",
                "use the kernel that hutch builds");
  snapshot::SavedMachine saved;
  saved.memory = memory_.size();
  auto cpuid = std::as_bytes(std::span(cpuid_));
  saved.cpuid.assign(cpuid.begin(), cpuid.end());
  saved.clock = TRY(kvm::save_clock(vm_));
  saved.interrupt_controllers = TRY(kvm::save_interrupt_controllers(vm_));
  for (const auto& thread : threads_)
    saved.vcpus.push_back(TRY(kvm::save_vcpu(kvm_, thread->vcpu())));
  saved.serial = serial_->save();
  for (VirtioDevice& device : virtio_)
    saved.devices.push_back({device.name, device.transport->save()});
  for (const virtio::block::LayeredBackend* disk : layered_)
    saved.disks.push_back(disk != nullptr ? save_disk(*disk) : snapshot::SavedDisk());
  if (network_) saved.network = network_->save();
  return saved;
}

Result<void> Machine::restore_state(const snapshot::SavedMachine& saved) {
  if (saved.devices.size() != virtio_.size())
    return fail(
        fmt::format("it has {} devices, {} were given", saved.devices.size(), virtio_.size()));
  for (size_t i = 0; i < virtio_.size(); i++)
    if (saved.devices[i].name != virtio_[i].name)
      return fail(fmt::format("device {} is a {}, a {} was given", i, saved.devices[i].name,
                              virtio_[i].name));
  if (saved.disks.size() != layered_.size())
    return fail(fmt::format("it has {} disks, {} were given", saved.disks.size(), layered_.size()));
  for (size_t i = 0; i < layered_.size(); i++) {
    if (layered_[i] != nullptr) {
      TRY_CONTEXT(fmt::format("disk {}", i), check_disk(*layered_[i], saved.disks[i]));
    } else if (!saved.disks[i].layers.empty()) {
      return fail(fmt::format("disk {} had layers, and is given none", i));
    }
  }
  // The generation ID and its interrupt are there before the interrupt controllers' state, which
  // takes interrupts in from then on.
  generation_line_ = TRY(add_interrupt(boot::kGenerationIdInterrupt));
  TRY(kvm::restore_interrupt_controllers(vm_, saved.interrupt_controllers));
  for (size_t i = 0; i < vcpus_.size(); i++)
    TRY(kvm::restore_vcpu(kvm_, vcpus_[i], saved.vcpus[i]));
  TRY(kvm::restore_clock(vm_, saved.clock));
  TRY(serial_->restore(saved.serial));
  for (size_t i = 0; i < virtio_.size(); i++) {
    TRY(virtio_[i].transport->restore(saved.devices[i].transport));
    TRY(virtio_[i].transport->resume());
  }
  // The network's device takes frames by now.
  if (network_) TRY(network_->restore(saved.network));
  TRY(renew_generation_id());
  generation_line_->raise();
  return {};
}

// The kernel makes its random numbers anew when it finds another one.
Result<void> Machine::renew_generation_id() {
  std::array<std::byte, 16> bytes;
  TRY(fill_random(bytes));
  return memory_.write_bytes(parts_.generation_id, bytes);
}

}  // namespace hutch::vmm
