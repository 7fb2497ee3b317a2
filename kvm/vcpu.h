// Vcpu: one virtual CPU: its registers, and KVM_RUN as a function from entry to exit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "kvm/vm.h"

namespace hutch::kvm {

// The guest accessed a port `count` times (`rep ins/outs`), `size` bytes each. For a read the data
// is to be filled in before the next run. Everything here is guest-controlled.
struct PortExit {
  bool is_write = false;
  uint16_t port = 0;
  uint8_t size = 0;         // 1, 2 or 4
  std::span<uint8_t> data;  // count * size bytes, in the run structure
};
struct MmioExit {
  bool is_write = false;
  uint64_t address = 0;
  std::span<uint8_t> data;  // 1 to 8 bytes, in the run structure
};
struct InterruptedExit {};  // a signal or immediate_exit; run again
struct HaltExit {};         // HLT without an in-kernel local APIC
struct ShutdownExit {};     // triple fault
// KVM could not go on: what it said, and the instruction bytes where known.
struct InternalErrorExit {
  uint32_t suberror = 0;
  std::vector<uint8_t> instruction;
};
struct FailedEntryExit {
  uint64_t hardware_reason = 0;
};
struct SystemEventExit {
  uint32_t type = 0;
};
struct UnknownExit {
  uint32_t reason = 0;
};
using VcpuExit = std::variant<PortExit, MmioExit, InterruptedExit, HaltExit, ShutdownExit,
                              InternalErrorExit, FailedEntryExit, SystemEventExit, UnknownExit>;

// One counter of KVM's binary statistics.
struct Statistic {
  std::string name;
  uint64_t value = 0;
};

class Vcpu {
 public:
  // `index` is also the local APIC id.
  static Result<Vcpu> create(const Kvm& kvm, const Vm& vm, uint32_t index);
  Vcpu(Vcpu&& other) noexcept;
  Vcpu& operator=(Vcpu&&) = delete;
  ~Vcpu();

  Result<void> set_cpuid(std::span<const kvm_cpuid_entry2> entries);
  Result<void> set_msrs(std::span<const kvm_msr_entry> entries);
  Result<kvm_regs> registers() const;
  Result<void> set_registers(const kvm_regs& registers);
  Result<kvm_sregs> special_registers() const;
  Result<void> set_special_registers(const kvm_sregs& registers);
  Result<void> set_fpu(const kvm_fpu& fpu);
  Result<kvm_lapic_state> local_apic() const;
  Result<void> set_local_apic(const kvm_lapic_state& state);
  // Guest-virtual to guest-physical through the guest's own page tables.
  Result<GuestAddress> translate(uint64_t virtual_address) const;

  // Runs the guest until it exits. Only the thread that owns the vCPU. Spans in the exit are valid
  // until the next run. An Error means that KVM_RUN itself failed.
  Result<VcpuExit> run();
  // Makes KVM look for an interrupt to inject when it enters the guest next. Only between runs of a
  // processor that has run. For guests that use the PIC: KVM (Linux 6.1: pic_unlock in
  // arch/x86/kvm/i8259.c) looks when the PIC raises its line, if the local APIC's pin is open then,
  // but not when the guest opens the pin with the line high. A guest that halts then is woken at
  // once, for ever.
  Result<void> check_interrupts();
  // Makes the current or next run() return InterruptedExit without entering the guest; the owner's
  // thread must be signalled as well if it may be inside. Any thread.
  void request_exit();
  void clear_exit_request();
  // Completes the last exit inside KVM, whose answer it takes at the next entry only, without
  // running the guest: before the registers are saved. InterruptedExit: that is done. Any other
  // exit is a further part of the same access: to be handled, and this to be called again. Leaves
  // an exit requested. The owner's thread.
  Result<VcpuExit> complete_exit();

  // Opens KVM's binary statistics of this vCPU; before it runs, since the call waits for the vCPU.
  Result<void> open_statistics();
  // The cumulative counters, while the vCPU runs; empty when they were not opened. Reads the list's
  // form anew on each call: it is asked for rarely.
  Result<std::vector<Statistic>> statistics() const;

  int fd() const { return fd_.get(); }

 private:
  Vcpu(Fd fd, kvm_run* run, size_t run_size) : fd_(std::move(fd)), run_(run), run_size_(run_size) {}
  VcpuExit describe_exit();

  Fd fd_;
  kvm_run* run_;
  size_t run_size_;
  Fd statistics_;
};

}  // namespace hutch::kvm
