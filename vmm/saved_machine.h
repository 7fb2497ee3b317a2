// Reads a saved machine, and says whether it can go on here.
#pragma once

#include "kvm/kvm.h"
#include "protocol/vmm.h"
#include "snapshot/state.h"

namespace hutch::vmm {

// The state of a saved machine, checked as far as it can be before anything is made for it: it is
// whole and ours, and has the processors, the memory and the devices that `start` says; `cpuid` is
// what this host gives its first processor.
Result<snapshot::SavedMachine> read_saved(const protocol::vmm::Restore& restore,
                                          const protocol::vmm::Start& start,
                                          std::span<const kvm_cpuid_entry2> cpuid);

// Fills `bytes` from the host's random number generator.
Result<void> fill_random(std::span<std::byte> bytes);

}  // namespace hutch::vmm
