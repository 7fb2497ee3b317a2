#include "kvm/vm.h"

namespace hutch::kvm {

Result<Vm> Vm::create(const Kvm& kvm) {
  return Vm(Fd(TRY(control(kvm.fd(), KVM_CREATE_VM, "KVM_CREATE_VM", 0UL))));
}

Result<void> Vm::set_tss_address(GuestAddress address) {
  TRY(control(fd_.get(), KVM_SET_TSS_ADDR, "KVM_SET_TSS_ADDR", address.value()));
  return {};
}

Result<void> Vm::set_identity_map_address(GuestAddress address) {
  uint64_t value = address.value();
  TRY(control(fd_.get(), KVM_SET_IDENTITY_MAP_ADDR, "KVM_SET_IDENTITY_MAP_ADDR", &value));
  return {};
}

Result<void> Vm::set_memory_slot(uint32_t slot, const GuestMemory::Region& region) {
  kvm_userspace_memory_region memory{};
  memory.slot = slot;
  memory.guest_phys_addr = region.range.start.value();
  memory.memory_size = region.range.size;
  memory.userspace_addr = reinterpret_cast<uintptr_t>(region.host);
  TRY(control(fd_.get(), KVM_SET_USER_MEMORY_REGION, "KVM_SET_USER_MEMORY_REGION", &memory));
  return {};
}

Result<void> Vm::set_read_only_slot(uint32_t slot, GuestAddress address,
                                    std::span<const std::byte> pages) {
  kvm_userspace_memory_region memory{};
  memory.slot = slot;
  memory.flags = KVM_MEM_READONLY;
  memory.guest_phys_addr = address.value();
  memory.memory_size = pages.size();
  memory.userspace_addr = reinterpret_cast<uintptr_t>(pages.data());
  TRY(control(fd_.get(), KVM_SET_USER_MEMORY_REGION, "KVM_SET_USER_MEMORY_REGION", &memory));
  return {};
}

Result<void> Vm::create_interrupt_controllers() {
  TRY(control(fd_.get(), KVM_CREATE_IRQCHIP, "KVM_CREATE_IRQCHIP", 0UL));
  return {};
}

Result<void> Vm::create_pit() {
  kvm_pit_config config{};
  config.flags = KVM_PIT_SPEAKER_DUMMY;
  TRY(control(fd_.get(), KVM_CREATE_PIT2, "KVM_CREATE_PIT2", &config));
  return {};
}

Result<void> Vm::add_ioeventfd(GuestAddress address, uint32_t datamatch, int eventfd) {
  kvm_ioeventfd event{};
  event.datamatch = datamatch;
  event.addr = address.value();
  event.len = sizeof datamatch;
  event.fd = eventfd;
  event.flags = KVM_IOEVENTFD_FLAG_DATAMATCH;
  TRY(control(fd_.get(), KVM_IOEVENTFD, "KVM_IOEVENTFD", &event));
  return {};
}

Result<void> Vm::add_irqfd(uint32_t gsi, int eventfd) {
  kvm_irqfd event{};
  event.fd = static_cast<uint32_t>(eventfd);
  event.gsi = gsi;
  TRY(control(fd_.get(), KVM_IRQFD, "KVM_IRQFD", &event));
  return {};
}

}  // namespace hutch::kvm
