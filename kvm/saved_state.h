// What KVM holds of a machine that stands still: taken out of it, and put into a new one.
//
// Source: Linux Documentation/virt/kvm/api.rst. Saving only reads. Restoring goes to a VM and vCPUs
// that have never run, which have their CPUID; what is saved may be hostile: KVM checks each value,
// and what it refuses is an Error.
#pragma once

#include "kvm/vcpu.h"
#include "snapshot/state.h"

namespace hutch::kvm {

// No thread is in Vcpu::run(), and the last exit has been completed: see Vcpu::complete_exit().
Result<snapshot::SavedVcpu> save_vcpu(const Kvm& kvm, const Vcpu& vcpu);
Result<void> restore_vcpu(const Kvm& kvm, const Vcpu& vcpu, const snapshot::SavedVcpu& saved);

// The interrupt controllers of the VM, and its clock. Not the PIT.
Result<std::vector<snapshot::Bytes>> save_interrupt_controllers(const Vm& vm);
Result<void> restore_interrupt_controllers(const Vm& vm, std::span<const snapshot::Bytes> saved);
Result<snapshot::Bytes> save_clock(const Vm& vm);
// The guest's clock goes on from where it stood.
Result<void> restore_clock(const Vm& vm, const snapshot::Bytes& saved);

}  // namespace hutch::kvm
