#include "vmm/vcpu_setup.h"

#include <array>
#include <bit>
#include <cstring>

#include "boot/layout.h"

namespace hutch::vmm {
namespace {

constexpr uint32_t kMsrMtrrDefaultType = 0x2ff;
constexpr uint32_t kMsrMiscEnable = 0x1a0;

// Leaf 0xB and 0x1F: threads of a core, then cores of the socket.
void set_topology_level(kvm_cpuid_entry2& entry, uint32_t index, uint32_t cpus) {
  auto core_bits = static_cast<uint32_t>(std::bit_width(cpus - 1));
  entry.edx = index;
  switch (entry.index) {
    case 0:
      entry.eax = 0;
      entry.ebx = 1;
      entry.ecx = 1 << 8;  // type: thread
      break;
    case 1:
      entry.eax = core_bits;
      entry.ebx = cpus;
      entry.ecx = (2 << 8) | 1;  // type: core
      break;
    default:
      entry.eax = 0;
      entry.ebx = 0;
      entry.ecx = entry.index;
  }
}

void set_topology(kvm_cpuid_entry2& entry, uint32_t index, uint32_t cpus) {
  switch (entry.function) {
    case 0x1:
      entry.ebx = (entry.ebx & 0x0000ffff) | (index << 24) | (cpus << 16);
      entry.edx = cpus > 1 ? entry.edx | (1u << 28) : entry.edx & ~(1u << 28);
      break;
    case 0x4:
    case 0x8000001d:
      // Caches: each core its own, the last level shared by all.
      if ((entry.eax & 0x1f) != 0) {
        bool last_level = ((entry.eax >> 5) & 7) == 3;
        entry.eax = (entry.eax & 0x3fff) | ((last_level ? cpus - 1 : 0) << 14);
        if (entry.function == 0x4) entry.eax |= (cpus - 1) << 26;
      }
      break;
    case 0xb:
    case 0x1f:
      set_topology_level(entry, index, cpus);
      break;
    case 0x80000008:
      entry.ecx =
          cpus > 1 ? (static_cast<uint32_t>(std::bit_width(cpus - 1)) << 12) | (cpus - 1) : 0;
      break;
    case 0x8000001e:
      entry.eax = index;
      entry.ebx = index;  // core id, one thread each
      entry.ecx = 0;
      break;
    default:
      break;
  }
}

kvm_segment flat_segment(uint16_t selector, uint8_t type, bool is_code, bool is_long) {
  kvm_segment segment{};
  segment.limit = 0xffffffff;
  segment.selector = selector;
  segment.type = type;
  segment.present = 1;
  segment.s = 1;
  segment.g = 1;
  segment.db = is_code && is_long ? 0 : 1;
  segment.l = is_code && is_long ? 1 : 0;
  return segment;
}

}  // namespace

Result<std::vector<kvm_cpuid_entry2>> machine_cpuid(const kvm::Kvm& kvm, uint32_t cpus) {
  std::vector<kvm_cpuid_entry2> entries = TRY(kvm.supported_cpuid());
  bool deadline_timer = kvm.capability(KVM_CAP_TSC_DEADLINE_TIMER) > 0;
  bool has_arat = false;
  for (kvm_cpuid_entry2& entry : entries) {
    switch (entry.function) {
      case 0x1:
        entry.ecx |= 1u << 31;  // a hypervisor is present
        // Where KVM emulates the timer it does not say so in the list.
        if (deadline_timer) entry.ecx |= 1u << 24;
        break;
      case 0x6:
        // The emulated local APIC's timer never stops; without the bit Linux looks for a PIT.
        entry.eax |= 1u << 2;
        has_arat = true;
        break;
      case 0xa:
        // No performance counters: they would cost the guest's boot dozens of MSR accesses.
        entry.eax = entry.ebx = entry.ecx = entry.edx = 0;
        break;
      case 0x80000022:
        entry.eax = entry.ebx = 0;
        break;
      default:
        break;
    }
  }
  if (!has_arat) {
    kvm_cpuid_entry2 entry{};
    entry.function = 0x6;
    entry.eax = 1u << 2;
    entries.push_back(entry);
    for (kvm_cpuid_entry2& other : entries)
      if (other.function == 0 && other.eax < 0x6) other.eax = 0x6;
  }
  if (cpus > 1) {
    // KVM's list may hold only the first level of these; Linux reads the second as well.
    for (uint32_t leaf : {0xbu, 0x1fu}) {
      bool has_first = false, has_second = false;
      for (const kvm_cpuid_entry2& entry : entries) {
        has_first |= entry.function == leaf && entry.index == 0;
        has_second |= entry.function == leaf && entry.index == 1;
      }
      if (!has_first || has_second) continue;
      kvm_cpuid_entry2 second{};
      second.function = leaf;
      second.index = 1;
      second.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
      entries.push_back(second);
    }
  }
  return entries;
}

std::vector<kvm_cpuid_entry2> vcpu_cpuid(std::vector<kvm_cpuid_entry2> common, uint32_t index,
                                         uint32_t cpus) {
  for (kvm_cpuid_entry2& entry : common) set_topology(entry, index, cpus);
  return common;
}

Result<void> set_up_vcpu(kvm::Vcpu& vcpu, std::span<const kvm_cpuid_entry2> common, uint32_t index,
                         uint32_t cpus) {
  TRY(vcpu.set_cpuid(vcpu_cpuid({common.begin(), common.end()}, index, cpus)));
  std::array<kvm_msr_entry, 2> msrs{};
  msrs[0].index = kMsrMtrrDefaultType;
  msrs[0].data = (1 << 11) | 6;  // enabled, write-back
  msrs[1].index = kMsrMiscEnable;
  msrs[1].data = 1;  // fast string operations
  return vcpu.set_msrs(msrs);
}

Result<void> set_entry(kvm::Vcpu& vcpu, const boot::EntryState& entry) {
  bool is_long = entry.mode == boot::EntryState::Mode::kLong;
  kvm_sregs special = TRY(vcpu.special_registers());
  special.cs = flat_segment(0x10, 11, true, is_long);
  kvm_segment data = flat_segment(0x18, 3, false, is_long);
  special.ds = special.es = special.fs = special.gs = special.ss = data;
  special.tr = {};
  special.tr.limit = 0xffff;
  special.tr.selector = 0x20;
  special.tr.type = 11;  // busy task state segment
  special.tr.present = 1;
  special.gdt.base = boot::kGdt.value();
  special.gdt.limit = 5 * 8 - 1;
  special.idt.base = 0;
  special.idt.limit = 0;
  constexpr uint64_t kProtectedMode = 1, kExtensionType = 1 << 4, kPaging = 1ull << 31;
  special.cr0 = kProtectedMode | kExtensionType;
  special.cr4 = 0;
  special.efer = 0;
  if (is_long) {
    constexpr uint64_t kLongModeEnable = 1 << 8, kLongModeActive = 1 << 10;
    special.cr0 |= kPaging;
    special.cr3 = boot::kPageMapLevel4.value();
    special.cr4 = 1 << 5;  // physical address extension
    special.efer = kLongModeEnable | kLongModeActive;
  }
  TRY(vcpu.set_special_registers(special));

  kvm_regs registers{};
  registers.rflags = 2;
  registers.rip = entry.instruction_pointer;
  registers.rsi = entry.rsi;
  registers.rbx = entry.rbx;
  return vcpu.set_registers(registers);
}

Result<void> set_virtual_wire(kvm::Vcpu& vcpu) {
  constexpr size_t kLint0 = 0x350, kLint1 = 0x360;
  constexpr uint32_t kExternal = 7 << 8, kNonMaskable = 4 << 8;
  kvm_lapic_state state = TRY(vcpu.local_apic());
  std::memcpy(state.regs + kLint0, &kExternal, sizeof kExternal);
  std::memcpy(state.regs + kLint1, &kNonMaskable, sizeof kNonMaskable);
  return vcpu.set_local_apic(state);
}

}  // namespace hutch::vmm
