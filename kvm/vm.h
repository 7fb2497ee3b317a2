// Vm: one KVM virtual machine: memory slots, the in-kernel interrupt controllers, event
// descriptors.
//
// Order matters: memory slots before create_interrupt_controllers(), and no slot soon after a bus
// registration, or the kernel waits for a grace period of milliseconds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kvm/kvm.h"
#include "memory/guest_memory.h"

namespace hutch::kvm {

class Vm {
 public:
  static Result<Vm> create(const Kvm& kvm);

  // KVM_SET_TSS_ADDR: three pages below 4 GiB that Intel hosts need; outside RAM and devices.
  Result<void> set_tss_address(GuestAddress address);
  // KVM_SET_IDENTITY_MAP_ADDR: one page, before the first vCPU.
  Result<void> set_identity_map_address(GuestAddress address);
  // Registers one region of guest memory as slot `slot`. The memory must outlive the VM.
  Result<void> set_memory_slot(uint32_t slot, const GuestMemory::Region& region);
  // Pages at `address` that the guest reads without an exit; its writes come as MMIO. The host must
  // have KVM_CAP_READONLY_MEM, the pages must outlive the VM.
  Result<void> set_read_only_slot(uint32_t slot, GuestAddress address,
                                  std::span<const std::byte> pages);
  // Local APICs, IOAPIC and PICs in the kernel; before the first vCPU.
  Result<void> create_interrupt_controllers();
  // An 8254 timer in the kernel, for guests that need one. Costs a kernel thread.
  Result<void> create_pit();
  // Makes a guest write of `datamatch` (32 bits) to `address` signal the eventfd without an exit.
  Result<void> add_ioeventfd(GuestAddress address, uint32_t datamatch, int eventfd);
  // Makes a signal of the eventfd raise an edge on interrupt line `gsi`.
  Result<void> add_irqfd(uint32_t gsi, int eventfd);

  int fd() const { return fd_.get(); }

 private:
  explicit Vm(Fd fd) : fd_(std::move(fd)) {}
  Fd fd_;
};

}  // namespace hutch::kvm
