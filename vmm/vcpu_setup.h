// How a virtual CPU begins: CPUID, model-specific registers, and for the first one the registers of
// the kernel's entry.
//
// Sources: Intel SDM volumes 2 (CPUID) and 3 (MSRs); Linux Documentation/virt/kvm/x86/cpuid.rst.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "boot/x86_params.h"
#include "kvm/vcpu.h"

namespace hutch::vmm {

// What all vCPUs share: KVM's supported CPUID, made fit for a machine of `cpus` cores in one
// socket: TSC deadline timer and x2APIC where KVM has them, no performance counters.
Result<std::vector<kvm_cpuid_entry2>> machine_cpuid(const kvm::Kvm& kvm, uint32_t cpus);

// That of one of them.
std::vector<kvm_cpuid_entry2> vcpu_cpuid(std::vector<kvm_cpuid_entry2> common, uint32_t index,
                                         uint32_t cpus);
// Gives one vCPU its CPUID and MSRs. `common` is what machine_cpuid returned.
Result<void> set_up_vcpu(kvm::Vcpu& vcpu, std::span<const kvm_cpuid_entry2> common, uint32_t index,
                         uint32_t cpus);
// Puts the first vCPU at the kernel's entry point.
Result<void> set_entry(kvm::Vcpu& vcpu, const boot::EntryState& entry);
// Wires the local APIC as firmware would (LINT0 external, LINT1 NMI), for kernels with an MP table.
Result<void> set_virtual_wire(kvm::Vcpu& vcpu);

}  // namespace hutch::vmm
