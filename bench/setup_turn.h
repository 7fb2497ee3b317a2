// One set-up of KVM for a machine, and its guest's first instructions, in a process that has done
// nothing else: what `hutch bench setup` starts again and again.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"

namespace hutch::bench {

enum class SetupOrder {
  kOurs,          // as Machine::create (vmm/machine.cc): memory slots before anything else
  kIrqchipFirst,  // as Firecracker and kvmtool: TSS, interrupt controllers, PIT, vCPU, then memory
};

// Of CLOCK_MONOTONIC, less the time in which the thread was ready and the processors busy with
// others.
struct SetupTurn {
  uint64_t ready_ns = 0;  // from before /dev/kvm is opened to the first KVM_RUN
  uint64_t exit_ns = 0;   // to the guest's first exit
};

// With the code of kvm/ and vmm/ in both orders, and the same memory, CPUID, notifications (8) and
// interrupt lines (4). `handicap_ns` is slept on the way.
Result<SetupTurn> take_setup_turn(SetupOrder order, uint64_t handicap_ns);

// The same as a program: a line of JSON on standard output.
int print_setup_turn(const std::string& order, uint64_t handicap_ns);

}  // namespace hutch::bench
