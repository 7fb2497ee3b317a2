#include "kvm/vcpu.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>

#include "base/sys.h"

namespace hutch::kvm {
namespace {

// struct kvm_stats_desc, which ends in a name and has another size in C++ than in C (see
// ListHeader).
struct StatisticDescriptor {
  uint32_t flags;
  int16_t exponent;
  uint16_t size;
  uint32_t offset;
  uint32_t bucket_size;
};
static_assert(sizeof(StatisticDescriptor) == 16);

// KVM gives a new vCPU the rate of the time stamp counter that it found when it was loaded. Where
// it cannot scale the counter, and the processor has turned out faster since, it refuses that rate
// without a word (Linux 6.1: set_tsc_khz in arch/x86/kvm/x86.c, whose result kvm_arch_vcpu_create
// drops) and the guest's timers fire minutes late. Setting the same rate again tells.
Result<void> check_time_stamp_counter(const Fd& vcpu) {
  Result<int> rate = control(vcpu.get(), KVM_GET_TSC_KHZ, "KVM_GET_TSC_KHZ", 0ul);
  // A host whose counter is unstable tells no rate, and gives guests none that could be wrong.
  if (!rate) return {};
  if (!control(vcpu.get(), KVM_SET_TSC_KHZ, "KVM_SET_TSC_KHZ", static_cast<unsigned long>(*rate)))
    return fail(fmt::format("KVM takes the processor's clock for one of {} kHz, which it is not: "
                            "timers in guests would not fire",
                            *rate),
                "load the kernel module kvm again: modprobe -r kvm_amd kvm_intel kvm, then "
                "modprobe kvm_amd or kvm_intel");
  return {};
}

}  // namespace

Result<Vcpu> Vcpu::create(const Kvm& kvm, const Vm& vm, uint32_t index) {
  Fd fd(
      TRY(control(vm.fd(), KVM_CREATE_VCPU, "KVM_CREATE_VCPU", static_cast<unsigned long>(index))));
  TRY(check_time_stamp_counter(fd));
  void* run = ::mmap(nullptr, kvm.run_size(), PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (run == MAP_FAILED) return fail_errno(errno, "mapping a vCPU's run structure");
  return Vcpu(std::move(fd), static_cast<kvm_run*>(run), kvm.run_size());
}

Vcpu::Vcpu(Vcpu&& other) noexcept
    : fd_(std::move(other.fd_)),
      run_(std::exchange(other.run_, nullptr)),
      run_size_(other.run_size_),
      statistics_(std::move(other.statistics_)) {}

Vcpu::~Vcpu() {
  if (run_ != nullptr) ::munmap(run_, run_size_);
}

Result<void> Vcpu::set_cpuid(std::span<const kvm_cpuid_entry2> entries) {
  TRY(control(fd_.get(), kSetCpuid2, "KVM_SET_CPUID2", make_list(entries).data()));
  return {};
}

Result<void> Vcpu::set_msrs(std::span<const kvm_msr_entry> entries) {
  int set = TRY(control(fd_.get(), kSetMsrs, "KVM_SET_MSRS", make_list(entries).data()));
  if (static_cast<size_t>(set) != entries.size())
    return fail(fmt::format("KVM refuses model-specific register {:#x}",
                            entries[static_cast<size_t>(set)].index));
  return {};
}

Result<kvm_regs> Vcpu::registers() const {
  kvm_regs registers{};
  TRY(control(fd_.get(), KVM_GET_REGS, "KVM_GET_REGS", &registers));
  return registers;
}

Result<void> Vcpu::set_registers(const kvm_regs& registers) {
  TRY(control(fd_.get(), KVM_SET_REGS, "KVM_SET_REGS", &registers));
  return {};
}

Result<kvm_sregs> Vcpu::special_registers() const {
  kvm_sregs registers{};
  TRY(control(fd_.get(), KVM_GET_SREGS, "KVM_GET_SREGS", &registers));
  return registers;
}

Result<void> Vcpu::set_special_registers(const kvm_sregs& registers) {
  TRY(control(fd_.get(), KVM_SET_SREGS, "KVM_SET_SREGS", &registers));
  return {};
}

Result<void> Vcpu::set_fpu(const kvm_fpu& fpu) {
  TRY(control(fd_.get(), KVM_SET_FPU, "KVM_SET_FPU", &fpu));
  return {};
}

Result<kvm_lapic_state> Vcpu::local_apic() const {
  kvm_lapic_state state{};
  TRY(control(fd_.get(), KVM_GET_LAPIC, "KVM_GET_LAPIC", &state));
  return state;
}

Result<void> Vcpu::set_local_apic(const kvm_lapic_state& state) {
  TRY(control(fd_.get(), KVM_SET_LAPIC, "KVM_SET_LAPIC", &state));
  return {};
}

Result<GuestAddress> Vcpu::translate(uint64_t virtual_address) const {
  kvm_translation translation{};
  translation.linear_address = virtual_address;
  TRY(control(fd_.get(), KVM_TRANSLATE, "KVM_TRANSLATE", &translation));
  if (!translation.valid) return fail(fmt::format("{:#x} is not mapped", virtual_address));
  return GuestAddress(translation.physical_address);
}

Result<VcpuExit> Vcpu::run() {
  if (::ioctl(fd_.get(), KVM_RUN, 0) < 0) {
    if (errno == EINTR || errno == EAGAIN) return InterruptedExit{};
    return fail_errno(errno, "KVM_RUN");
  }
  return describe_exit();
}

Result<void> Vcpu::check_interrupts() {
  // A vCPU that exits is running: to say so again changes nothing, but requests the check.
  kvm_mp_state state{KVM_MP_STATE_RUNNABLE};
  TRY(control(fd_.get(), KVM_SET_MP_STATE, "KVM_SET_MP_STATE", &state));
  return {};
}

VcpuExit Vcpu::describe_exit() {
  switch (run_->exit_reason) {
    case KVM_EXIT_IO: {
      auto* data = reinterpret_cast<uint8_t*>(run_) + run_->io.data_offset;
      return PortExit{run_->io.direction == KVM_EXIT_IO_OUT,
                      run_->io.port,
                      run_->io.size,
                      {data, static_cast<size_t>(run_->io.size) * run_->io.count}};
    }
    case KVM_EXIT_MMIO:
      return MmioExit{run_->mmio.is_write != 0,
                      run_->mmio.phys_addr,
                      {run_->mmio.data, std::min<size_t>(run_->mmio.len, sizeof run_->mmio.data)}};
    case KVM_EXIT_INTR:
      return InterruptedExit{};
    case KVM_EXIT_HLT:
      return HaltExit{};
    case KVM_EXIT_SHUTDOWN:
      return ShutdownExit{};
    case KVM_EXIT_SYSTEM_EVENT:
      return SystemEventExit{run_->system_event.type};
    case KVM_EXIT_FAIL_ENTRY:
      return FailedEntryExit{run_->fail_entry.hardware_entry_failure_reason};
    case KVM_EXIT_INTERNAL_ERROR: {
      InternalErrorExit exit{run_->internal.suberror, {}};
      const auto& emulation = run_->emulation_failure;
      // ndata counts 64-bit words behind it: the flags, then size and bytes of the instruction.
      if (exit.suberror == KVM_INTERNAL_ERROR_EMULATION && emulation.ndata >= 3 &&
          (emulation.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) != 0) {
        size_t size = std::min<size_t>(emulation.insn_size, sizeof emulation.insn_bytes);
        exit.instruction.assign(emulation.insn_bytes, emulation.insn_bytes + size);
      }
      return exit;
    }
    default:
      return UnknownExit{run_->exit_reason};
  }
}

void Vcpu::request_exit() {
  std::atomic_ref(run_->immediate_exit).store(1, std::memory_order_release);
}

void Vcpu::clear_exit_request() {
  std::atomic_ref(run_->immediate_exit).store(0, std::memory_order_release);
}

Result<VcpuExit> Vcpu::complete_exit() {
  request_exit();
  return run();
}

Result<void> Vcpu::open_statistics() {
  statistics_ = Fd(TRY(control(fd_.get(), KVM_GET_STATS_FD, "KVM_GET_STATS_FD", nullptr)));
  return {};
}

Result<std::vector<Statistic>> Vcpu::statistics() const {
  std::vector<Statistic> values;
  if (!statistics_) return values;
  kvm_stats_header header{};
  TRY(read_exactly_at(statistics_.get(), std::as_writable_bytes(std::span(&header, 1)), 0));
  if (header.name_size == 0 || header.name_size > 128 || header.num_desc > 1024)
    return fail("KVM's statistics have an unknown form");
  size_t entry_size = sizeof(StatisticDescriptor) + header.name_size;
  std::vector<std::byte> entries(entry_size * header.num_desc);
  TRY(read_exactly_at(statistics_.get(), entries, header.desc_offset));
  for (uint32_t i = 0; i < header.num_desc; i++) {
    const std::byte* entry = entries.data() + i * entry_size;
    StatisticDescriptor descriptor{};
    std::memcpy(&descriptor, entry, sizeof descriptor);
    uint32_t kind = descriptor.flags & KVM_STATS_TYPE_MASK;
    if (kind != KVM_STATS_TYPE_CUMULATIVE || descriptor.size != 1) continue;
    const auto* name = reinterpret_cast<const char*>(entry + sizeof descriptor);
    uint64_t value = 0;
    TRY(read_exactly_at(statistics_.get(), std::as_writable_bytes(std::span(&value, 1)),
                        header.data_offset + descriptor.offset));
    values.push_back({std::string(name, ::strnlen(name, header.name_size)), value});
  }
  return values;
}

}  // namespace hutch::kvm
