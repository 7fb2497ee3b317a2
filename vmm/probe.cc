#include "vmm/probe.h"

#include <signal.h>
#include <unistd.h>

#include <array>
#include <vector>

#include "boot/layout.h"
#include "boot/x86_params.h"
#include "kvm/vcpu.h"
#include "vmm/instruction.h"
#include "vmm/vcpu_setup.h"

// The guest: 64-bit ring 0 code, copied to kCode. Port 0x80 gets the number of the step that
// follows.
asm(R"(
.pushsection .rodata
.global hutch_probe_begin, hutch_probe_breakpoint, hutch_probe_end
hutch_probe_begin:
  mov $0x80000, %rsp
  mov $1, %al
  out %al, $0x80
  mov $0xff, %ecx
  popcnt %rcx, %rbx
  mov $2, %al
  out %al, $0x80
  mov $0x90000, %rdi
  xor %eax, %eax
  xor %edx, %edx
  lock cmpxchg16b (%rdi)
  mov $3, %al
  out %al, $0x80
  int3
  mov $4, %al
  out %al, $0x80
  xor %ecx, %ecx
  mov $0xc0000100, %ecx
  rdmsr
  wrmsr
  swapgs
  swapgs
  mov %cr3, %rax
  mov %rax, %cr3
  mov $0x42, %al
  out %al, $0x80
  hlt
hutch_probe_breakpoint:
  iretq
hutch_probe_end:
.popsection
)");
extern "C" const std::byte hutch_probe_begin, hutch_probe_breakpoint, hutch_probe_end;

namespace hutch::vmm {
namespace {

constexpr uint64_t kMemory = 4 * boot::kMiB;
constexpr GuestAddress kCode{0x100000};
constexpr GuestAddress kInterruptTable{0x10000};
constexpr uint16_t kStepPort = 0x80;
constexpr uint8_t kArrived = 0x42;
constexpr unsigned kDeadlineSeconds = 5;
constexpr const char* kRemedy = "use the emulated machine: hutch machine start";

const char* step_name(uint8_t step) {
  switch (step) {
    case 1:
      return "popcnt";
    case 2:
      return "lock cmpxchg16b";
    case 3:
      return "int3";
    case 4:
      return "rdmsr, wrmsr, swapgs or a load of cr3";
    default:
      return "the first instruction";
  }
}

// A 64-bit interrupt gate for the breakpoint exception.
Result<void> write_interrupt_table(const GuestMemory& memory) {
  uint64_t handler =
      kCode.value() + static_cast<uint64_t>(&hutch_probe_breakpoint - &hutch_probe_begin);
  constexpr uint64_t kSelector = 0x10, kPresentInterruptGate = 0x8e00;
  std::array<uint64_t, 2> gate{(handler & 0xffff) | (kSelector << 16) |
                                   (kPresentInterruptGate << 32) | ((handler >> 16 & 0xffff) << 48),
                               handler >> 32};
  constexpr uint64_t kBreakpoint = 3;
  return memory.write(*kInterruptTable.offset(kBreakpoint * sizeof gate), gate);
}

}  // namespace

Result<void> probe_kvm(Fd device) {
  std::vector<GuestRange> ranges = boot::memory_ranges(kMemory);
  GuestMemory memory = TRY(GuestMemory::create(ranges));
  kvm::Kvm kvm = TRY(kvm::Kvm::create(std::move(device)));
  kvm::Vm vm = TRY(kvm::Vm::create(kvm));
  TRY(vm.set_identity_map_address(boot::kIdentityMap));
  TRY(vm.set_tss_address(boot::kTaskStateSegment));
  TRY(vm.set_memory_slot(0, memory.regions()[0]));
  TRY(vm.create_interrupt_controllers());
  kvm::Vcpu vcpu = TRY(kvm::Vcpu::create(kvm, vm, 0));
  TRY(set_up_vcpu(vcpu, TRY(machine_cpuid(kvm, 1)), 0, 1));

  TRY(memory.write_bytes(kCode, {&hutch_probe_begin, &hutch_probe_end}));
  TRY(write_interrupt_table(memory));
  boot::LoadedKernel kernel;
  kernel.entry = kCode;
  TRY(set_entry(vcpu, TRY(boot::prepare_linux64(memory, kernel, {.memory_size = kMemory}))));
  kvm_sregs special = TRY(vcpu.special_registers());
  special.idt.base = kInterruptTable.value();
  special.idt.limit = 0xfff;
  TRY(vcpu.set_special_registers(special));

  struct sigaction action {};
  action.sa_handler = [](int) {};
  ::sigaction(SIGALRM, &action, nullptr);
  ::alarm(kDeadlineSeconds);

  uint8_t step = 0;
  for (;;) {
    kvm::VcpuExit exit = TRY(vcpu.run());
    if (auto* port = std::get_if<kvm::PortExit>(&exit);
        port != nullptr && port->is_write && port->port == kStepPort && port->data.size() == 1) {
      step = port->data[0];
      if (step == kArrived) return {};
      continue;
    }
    if (auto* internal = std::get_if<kvm::InternalErrorExit>(&exit))
      return fail(
          fmt::format("this host's KVM cannot run {} in a guest kernel (KVM_INTERNAL_ERROR {})",
                      internal->instruction.empty() ? std::string(step_name(step))
                                                    : describe_instruction(internal->instruction),
                      internal->suberror),
          kRemedy);
    const char* what = std::holds_alternative<kvm::InterruptedExit>(exit) ? "does not get past"
                       : std::holds_alternative<kvm::ShutdownExit>(exit)  ? "shuts down at"
                                                                         : "leaves unexpectedly at";
    return fail(fmt::format("a test guest on this host's KVM {} {}", what, step_name(step)),
                kRemedy);
  }
}

}  // namespace hutch::vmm
