#include "bench/setup_turn.h"

#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <vector>

#include "base/sys.h"
#include "boot/layout.h"
#include "boot/x86_params.h"
#include "kvm/vcpu.h"
#include "memory/register_pages.h"
#include "vmm/vcpu_setup.h"

namespace hutch::bench {
namespace {

constexpr uint64_t kMemory = 128 * boot::kMiB;
constexpr GuestAddress kCode{16 * boot::kMiB};
// mov $0x3f8, %dx; mov $'!', %al; out %al, %dx; hlt
constexpr std::array<unsigned char, 8> kGuest{0x66, 0xba, 0xf8, 0x03, 0xb0, 0x21, 0xee, 0xf4};
// What a machine with two disks, vsock and network has.
constexpr size_t kDevices = 4;
constexpr uint32_t kNotifications = 8, kLines = 4;
constexpr uint64_t kNotifyRegister = 0x50;

// CLOCK_MONOTONIC less what this thread has spent on a run queue, ready while the processors were
// busy with others (Linux Documentation/scheduler/sched-stats.rst): what blocks counts, a busy host
// does not.
class Clock {
 public:
  static Result<Clock> create() {
    return Clock(TRY(open_file("/proc/thread-self/schedstat", O_RDONLY)));
  }
  uint64_t now() const {
    std::array<char, 128> text{};
    unsigned long long running = 0, ready = 0;
    if (::pread(schedstat_.get(), text.data(), text.size() - 1, 0) <= 0 ||
        std::sscanf(text.data(), "%llu %llu", &running, &ready) != 2)
      ready = 0;
    return monotonic_ns() - ready;
  }

 private:
  explicit Clock(Fd schedstat) : schedstat_(std::move(schedstat)) {}
  Fd schedstat_;
};

struct Shell {
  kvm::Kvm kvm;
  kvm::Vm vm;
  const GuestMemory& memory;
  RegisterPages pages;
  std::vector<EventFd> events;

  Result<void> add_memory() {
    TRY(vm.set_memory_slot(0, memory.regions()[0]));
    return {};
  }
  Result<void> add_register_pages() {
    if (kvm.capability(KVM_CAP_READONLY_MEM) == 0) return {};
    pages = TRY(RegisterPages::create(kDevices));
    return vm.set_read_only_slot(1, boot::kVirtioMmio, pages.all());
  }
  Result<void> add_fixed_pages() {
    TRY(vm.set_identity_map_address(boot::kIdentityMap));
    return vm.set_tss_address(boot::kTaskStateSegment);
  }
  Result<kvm::Vcpu> add_vcpu() {
    kvm::Vcpu vcpu = TRY(kvm::Vcpu::create(kvm, vm, 0));
    TRY(vmm::set_up_vcpu(vcpu, TRY(vmm::machine_cpuid(kvm, 1)), 0, 1));
    return vcpu;
  }
  Result<void> add_events() {
    for (uint32_t i = 0; i < kNotifications; i++) {
      events.push_back(TRY(EventFd::create()));
      uint64_t device = i % kDevices * boot::kMmioSlotSize;
      TRY(vm.add_ioeventfd(*boot::kVirtioMmio.offset(device + kNotifyRegister),
                           i / static_cast<uint32_t>(kDevices), events.back().get()));
    }
    for (uint32_t i = 0; i < kLines; i++) {
      events.push_back(TRY(EventFd::create()));
      TRY(vm.add_irqfd(boot::kVirtioInterrupts[i], events.back().get()));
    }
    return {};
  }
};

Result<kvm::Vcpu> set_up_ours(Shell& shell) {
  TRY(shell.add_memory());
  TRY(shell.add_register_pages());
  TRY(shell.add_fixed_pages());
  TRY(shell.vm.create_interrupt_controllers());
  kvm::Vcpu vcpu = TRY(shell.add_vcpu());
  TRY(shell.add_events());
  return vcpu;
}

// No page of registers: the peers have none.
Result<kvm::Vcpu> set_up_irqchip_first(Shell& shell) {
  TRY(shell.add_fixed_pages());
  TRY(shell.vm.create_interrupt_controllers());
  TRY(shell.vm.create_pit());
  kvm::Vcpu vcpu = TRY(shell.add_vcpu());
  TRY(shell.add_memory());
  TRY(shell.add_events());
  return vcpu;
}

}  // namespace

Result<SetupTurn> take_setup_turn(SetupOrder order, uint64_t handicap_ns) {
  // Both sides have the same guest memory, whose making is no part of the question.
  std::vector<GuestRange> ranges = boot::memory_ranges(kMemory);
  GuestMemory memory = TRY(GuestMemory::create(ranges));
  TRY(memory.write_bytes(kCode, std::as_bytes(std::span(kGuest))));
  boot::LoadedKernel kernel;
  kernel.entry = kCode;
  boot::EntryState entry = TRY(boot::prepare_linux64(memory, kernel, {.memory_size = kMemory}));

  SetupTurn turn;
  Clock clock = TRY(Clock::create());
  uint64_t start = clock.now();
  kvm::Kvm kvm = TRY(kvm::Kvm::create(TRY(open_file("/dev/kvm", O_RDWR))));
  kvm::Vm vm = TRY(kvm::Vm::create(kvm));
  Shell shell{std::move(kvm), std::move(vm), memory, {}, {}};
  kvm::Vcpu vcpu =
      TRY(order == SetupOrder::kOurs ? set_up_ours(shell) : set_up_irqchip_first(shell));
  TRY(vmm::set_entry(vcpu, entry));
  if (handicap_ns > 0) {
    timespec time{.tv_sec = 0, .tv_nsec = static_cast<long>(handicap_ns)};
    ::nanosleep(&time, nullptr);
  }
  turn.ready_ns = clock.now() - start;
  kvm::VcpuExit exit = TRY(vcpu.run());
  turn.exit_ns = clock.now() - start;
  auto* port = std::get_if<kvm::PortExit>(&exit);
  if (port == nullptr || !port->is_write || port->port != boot::kSerialPort)
    return fail("the test guest's first exit is not the one it makes",
                "look at what this host's KVM can run: hutch doctor");
  return turn;
}

int print_setup_turn(const std::string& order, uint64_t handicap_ns) {
  Result<SetupTurn> turn =
      take_setup_turn(order == "ours" ? SetupOrder::kOurs : SetupOrder::kIrqchipFirst, handicap_ns);
  if (!turn) {
    fmt::print(stderr, "hutch: {}\n", turn.error().text());
    return 1;
  }
  fmt::print("{{\"ready_ns\":{},\"exit_ns\":{}}}\n", turn->ready_ns, turn->exit_ns);
  return 0;
}

}  // namespace hutch::bench
