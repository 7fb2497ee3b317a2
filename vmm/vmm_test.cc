#include <doctest/doctest.h>
#include <sys/time.h>

#include <array>
#include <cstdio>
#include <map>
#include <thread>

#include "tests/tiny_guest.h"
#include "vmm/exit_counters.h"
#include "vmm/instruction.h"
#include "vmm/start_steps.h"

// Guests, in 64-bit mode with the first 4 GiB mapped one to one. The addresses are those of
// boot/layout.h.
asm(R"(
.pushsection .rodata
.macro guest name
.global guest_\name, guest_\name\()_end
guest_\name:
.endm
.macro guest_end name
guest_\name\()_end:
.endm

guest power_off
  mov $0xd0001000, %ebx
  movl $1, (%rbx)
1: jmp 1b
guest_end power_off

guest reset
  mov $0xfe, %al
  out %al, $0x64
1: jmp 1b
guest_end reset

guest panic
  mov $0xd0002000, %ebx
  movb $1, (%rbx)
1: jmp 1b
guest_end panic

guest spin
1: jmp 1b
guest_end spin

guest fetch_from_device
  mov $0xd0001000, %ebx
  jmp *%rbx
guest_end fetch_from_device

guest print
  lea 9f(%rip), %rsi
  mov $0x3f8, %dx
1: lodsb
  test %al, %al
  jz 2f
  out %al, %dx
  jmp 1b
2: mov $0xfe, %al
  out %al, $0x64
  jmp 2b
9: .ascii "Kernel panic - not syncing: \033[31mtest\033[0m\r\n\0"
guest_end print

guest flood
  mov $FLOOD, %ecx
  mov $0x3f8, %dx
  mov $'x', %al
1: out %al, %dx
  dec %ecx
  jnz 1b
  mov $0xd0001000, %ebx
  movl $1, (%rbx)
2: jmp 2b
guest_end flood
.set FLOOD, 5000

guest mark
  mov $1, %al
  mov $0x2e0, %dx
  out %al, %dx
  mov $0xd0010000, %ebx
  mov (%rbx), %eax
  cmp $0x74726976, %eax
  jne 1f
  mov $0xd0001000, %ebx
  movl $1, (%rbx)
1: jmp 1b
guest_end mark

guest beyond
  # Addresses at which there is nothing read as all ones; then power off.
  mov $0xd0fff000, %ebx
  mov (%rbx), %eax
  cmp $-1, %eax
  jne 1f
  mov $0x9999, %dx
  in %dx, %eax
  cmp $-1, %eax
  jne 1f
  # Straddles the end of the power register.
  mov $0xd0001002, %ebx
  movl $0x00010001, (%rbx)
  mov $0xd0001000, %ebx
  movl $1, (%rbx)
1: jmp 1b
guest_end beyond

guest pic
  # The timer's interrupt goes from the PIC through pin LINT0 of the local APIC to vector 0x20.
  mov $0x310000, %esp
  lea 9f(%rip), %rax
  mov $0x210200, %edi
  mov %ax, (%rdi)
  movw $0x10, 2(%rdi)
  movw $0x8e00, 4(%rdi)
  shr $16, %rax
  mov %ax, 6(%rdi)
  movq $0, 8(%rdi)
  movw $0x20f, 0x300000
  movq $0x210000, 0x300002
  lidt 0x300000
  mov $0x11, %al
  out %al, $0x20
  mov $0x20, %al
  out %al, $0x21
  mov $4, %al
  out %al, $0x21
  mov $1, %al
  out %al, $0x21
  mov $0xfe, %al
  out %al, $0x21
  # Closed while the timer, 1 kHz, raises its line...
  mov $0xfee000f0, %ebx
  movl $0x1ff, (%rbx)
  mov $0xfee00350, %ebx
  movl $0x10700, (%rbx)
  mov $0x34, %al
  out %al, $0x43
  mov $0xa9, %al
  out %al, $0x40
  mov $0x04, %al
  out %al, $0x40
1: mov $0x0a, %al
  out %al, $0x20
  in $0x20, %al
  test $1, %al
  jz 1b
  # ...and opened with the line high.
  movl $0x700, (%rbx)
  mov $0x3fd, %dx
  in %dx, %al
  # No interrupt within this many halts: reset.
  mov $1000, %ecx
2: sti
  hlt
  cli
  dec %ecx
  jnz 2b
  mov $0xfe, %al
  out %al, $0x64
3: jmp 3b
9: mov $0xd0001000, %ebx
  movl $1, (%rbx)
4: jmp 4b
guest_end pic

guest hostile
  # %r12: random state, %r13: rounds left, %r14: the rings' memory.
  mov $0x1234567890abcdef, %r12
  mov $ROUNDS, %r13
  mov $0x200000, %r14d
  jmp .Lnext
.Lrandom:
  mov %r12, %rax
  shl $13, %rax
  xor %rax, %r12
  mov %r12, %rax
  shr $7, %rax
  xor %rax, %r12
  mov %r12, %rax
  shl $17, %rax
  xor %rax, %r12
  mov %r12, %rax
  ret
.Ldevice:
  # %rdi: a random device's registers.
  call .Lrandom
  and $3, %eax
  shl $12, %eax
  mov $0xd0010000, %edi
  add %rax, %rdi
  ret
.Lset_up:
  call .Ldevice
  movl $0, 0x70(%rdi)
  movl $1, 0x70(%rdi)
  movl $3, 0x70(%rdi)
  movl $1, 0x24(%rdi)
  movl $1, 0x20(%rdi)
  movl $0, 0x24(%rdi)
  call .Lrandom
  and $0x30000000, %eax
  mov %eax, 0x20(%rdi)
  movl $11, 0x70(%rdi)
  xor %ebp, %ebp
1: mov %ebp, 0x30(%rdi)
  movl $8, 0x38(%rdi)
  mov %ebp, %ebx
  shl $14, %ebx
  add %r14d, %ebx
  mov %ebx, 0x80(%rdi)
  movl $0, 0x84(%rdi)
  lea 0x1000(%rbx), %eax
  mov %eax, 0x90(%rdi)
  movl $0, 0x94(%rdi)
  lea 0x2000(%rbx), %eax
  mov %eax, 0xa0(%rdi)
  movl $0, 0xa4(%rdi)
  movl $1, 0x44(%rdi)
  # Eight descriptors that are often plausible.
  mov $8, %ecx
  mov %rbx, %rsi
2: call .Lrandom
  and $0xfff8, %eax
  add %r14d, %eax
  mov %rax, (%rsi)
  call .Lrandom
  and $0x1fff, %eax
  mov %eax, 8(%rsi)
  call .Lrandom
  and $0x7, %eax
  mov %ax, 12(%rsi)
  call .Lrandom
  and $0x7, %eax
  mov %ax, 14(%rsi)
  add $16, %rsi
  dec %ecx
  jnz 2b
  call .Lrandom
  mov %rax, 0x1004(%rbx)
  andl $0x00070007, 0x1004(%rbx)
  andl $0x00070007, 0x1008(%rbx)
  call .Lrandom
  and $7, %eax
  mov %ax, 0x1002(%rbx)
  inc %ebp
  cmp $3, %ebp
  jne 1b
  movl $15, 0x70(%rdi)
  movl $0, 0x50(%rdi)
  movl $1, 0x50(%rdi)
  movl $2, 0x50(%rdi)
  jmp .Lnext
.Lregister:
  call .Ldevice
  call .Lrandom
  mov %eax, %ebx
  and $0x1fc, %ebx
  add %rbx, %rdi
  shr $32, %rax
  test $1, %al
  jz 3f
  and $0x1f, %eax
3: mov %eax, (%rdi)
  mov (%rdi), %eax
  jmp .Lnext
.Lodd_access:
  call .Ldevice
  call .Lrandom
  and $0x1ff, %eax
  add %rax, %rdi
  mov %al, (%rdi)
  mov %ax, (%rdi)
  mov (%rdi), %rax
  jmp .Lnext
.Lmemory:
  call .Lrandom
  mov %eax, %ebx
  and $0xffff, %ebx
  add %r14, %rbx
  mov %rax, (%rbx)
  jmp .Lnext
.Lport:
  call .Lrandom
  mov %eax, %edx
  and $7, %edx
  add $0x3f8, %edx
  shr $8, %eax
  out %al, %dx
  in %dx, %al
  in %dx, %eax
  jmp .Lnext
.Lnotify:
  call .Ldevice
  call .Lrandom
  and $7, %eax
  mov %eax, 0x50(%rdi)
  mov 0x60(%rdi), %eax
  mov %eax, 0x64(%rdi)
.Lnext:
  mov $0x300000, %esp
  dec %r13
  jz .Ldone
  call .Lrandom
  and $15, %eax
  cmp $5, %eax
  jb .Lregister
  cmp $7, %eax
  jb .Lmemory
  cmp $8, %eax
  je .Lport
  cmp $9, %eax
  je .Lodd_access
  cmp $12, %eax
  ja .Lset_up
  jmp .Lnotify
.Ldone:
  mov $0xd0001000, %ebx
  movl $1, (%rbx)
1: jmp 1b
guest_end hostile
.set ROUNDS, 60000
.popsection
)");

#define GUEST(name)                                            \
  extern "C" const std::byte guest_##name, guest_##name##_end; \
  static std::span<const std::byte> name##_guest() {           \
    return {&guest_##name, &guest_##name##_end};               \
  }
GUEST(power_off)
GUEST(reset)
GUEST(panic)
GUEST(spin)
GUEST(fetch_from_device)
GUEST(print)
GUEST(flood)
GUEST(mark)
GUEST(beyond)
GUEST(pic)
GUEST(hostile)

namespace hutch::vmm {
namespace {

using protocol::vmm::EndReason;
using protocol::vmm::MarkKind;
using tests::run_tiny_guest;
using tests::TinyRun;

// Every test with a guest starts with this: without a KVM there is nothing to run it on.
#define NEEDS_KVM()                                      \
  if (!tests::have_kvm()) {                              \
    std::printf("SKIPPED: this host has no /dev/kvm\n"); \
    return;                                              \
  }

TEST_CASE("a guest powers itself off, and the process ends well") {
  NEEDS_KVM();
  std::optional<TinyRun> run = run_tiny_guest(power_off_guest());
  REQUIRE(run);
  CHECK(run->ended.reason == EndReason::kPowerOff);
  CHECK(WIFEXITED(run->wait_status));
  CHECK(WEXITSTATUS(run->wait_status) == 0);
  REQUIRE(run->marks.size() >= 2);
  CHECK(run->marks[0].kind == MarkKind::kFirstRun);
  CHECK(run->marks[1].kind == MarkKind::kKernel);
  CHECK(run->counter("user_exits/mmio/0xd0001000") == 1);
  CHECK(run->counter("pages_touched") > 0);
}

TEST_CASE("a reset and a panic are told apart") {
  NEEDS_KVM();
  CHECK(run_tiny_guest(reset_guest())->ended.reason == EndReason::kReset);
  CHECK(run_tiny_guest(panic_guest())->ended.reason == EndReason::kPanic);
}

TEST_CASE("a reset after a panic message is a panic, with the last console lines made harmless") {
  NEEDS_KVM();
  std::optional<TinyRun> run = run_tiny_guest(print_guest());
  REQUIRE(run);
  CHECK(run->ended.reason == EndReason::kPanic);
  CHECK(run->ended.console_tail == "Kernel panic - not syncing: test\n");
}

TEST_CASE("a console's reader that is late misses nothing, the last words neither") {
  NEEDS_KVM();
  // A socket takes a few hundred single bytes; the rest waits in the VMM.
  auto [here, there] = socket_pair(SOCK_STREAM).value();
  protocol::vmm::Start start;
  start.console_output = std::move(there);
  size_t received = 0;
  std::thread reader([&received, fd = here.get()] {
    std::array<char, 4096> bytes;
    timespec pause{0, 200'000'000};
    ::nanosleep(&pause, nullptr);
    for (ssize_t count = 0; (count = ::read(fd, bytes.data(), bytes.size())) > 0;)
      received += static_cast<size_t>(count);
  });
  std::optional<TinyRun> run = run_tiny_guest(flood_guest(), std::move(start));
  reader.join();
  REQUIRE(run);
  CHECK(run->ended.reason == EndReason::kPowerOff);
  CHECK(received == 5000);
}

TEST_CASE("what KVM cannot run ends with the address and a remedy") {
  NEEDS_KVM();
  std::optional<TinyRun> run = run_tiny_guest(fetch_from_device_guest());
  REQUIRE(run);
  CHECK(run->ended.reason == EndReason::kInternalError);
  CHECK(run->ended.message.find("0xd0001000") != std::string::npos);
  CHECK(run->ended.remedy.find("hutch machine start") != std::string::npos);
}

TEST_CASE(
    "the agent's mark is reported with the exits up to it, and virtio is where it should be") {
  NEEDS_KVM();
  std::optional<TinyRun> run = run_tiny_guest(mark_guest());
  REQUIRE(run);
  CHECK(run->ended.reason == EndReason::kPowerOff);
  REQUIRE(run->marks.size() == 3);
  CHECK(run->marks[2].kind == MarkKind::kInit);
  CHECK(run->counter("user_exits_until_init") == 1);
  CHECK(run->counter("user_exits_until_init/port/0x2e0") == 1);
  // The guest has looked for the device, too: reading its registers is no exit.
  CHECK(run->counter("user_exits") == 2);
}

TEST_CASE(
    "an interrupt that the PIC raised while the local APIC's pin was closed arrives after it") {
  NEEDS_KVM();
  CHECK(run_tiny_guest(pic_guest())->ended.reason == EndReason::kPowerOff);
}

TEST_CASE("V15: holes read as all ones, and an access across a device's end does nothing") {
  NEEDS_KVM();
  std::optional<TinyRun> run = run_tiny_guest(beyond_guest());
  REQUIRE(run);
  CHECK(run->ended.reason == EndReason::kPowerOff);
}

TEST_CASE("Stop ends a guest that spins on every CPU") {
  NEEDS_KVM();
  protocol::vmm::Start start;
  start.cpus = 4;
  std::optional<TinyRun> run = run_tiny_guest(spin_guest(), std::move(start), [](int control) {
    protocol::vmm::Packet stop = encode_plain(protocol::vmm::MessageType::kStop);
    REQUIRE(send_message(control, stop.bytes, {}));
  });
  REQUIRE(run);
  CHECK(run->ended.reason == EndReason::kStopped);
}

TEST_CASE("a machine ends when its launcher goes away") {
  NEEDS_KVM();
  std::optional<TinyRun> run =
      run_tiny_guest(spin_guest(), {}, [](int control) { ::shutdown(control, SHUT_WR); });
  REQUIRE(run);
  CHECK(run->ended.reason == EndReason::kStopped);
}

TEST_CASE("a message that only the VMM sends ends the machine as a fault of the host's side") {
  NEEDS_KVM();
  std::optional<TinyRun> run = run_tiny_guest(spin_guest(), {}, [](int control) {
    protocol::vmm::Packet wrong = encode(protocol::vmm::Mark{MarkKind::kInit, 1});
    REQUIRE(send_message(control, wrong.bytes, {}));
  });
  REQUIRE(run);
  CHECK(run->ended.reason == EndReason::kHostError);
  CHECK(WEXITSTATUS(run->wait_status) == 1);
}

TEST_CASE("memory of 128 MiB to 64 GiB and 1 to 16 CPUs start; nothing beyond") {
  NEEDS_KVM();
  auto reason = [](uint32_t cpus, uint64_t memory) {
    protocol::vmm::Start start;
    start.cpus = cpus;
    start.memory = memory;
    return run_tiny_guest(power_off_guest(), std::move(start))->ended.reason;
  };
  CHECK(reason(1, 128ull << 20) == EndReason::kPowerOff);
  CHECK(reason(16, 5ull << 30) == EndReason::kPowerOff);
  CHECK(reason(1, 64ull << 30) == EndReason::kPowerOff);
  CHECK(reason(0, 128ull << 20) == EndReason::kHostError);
  CHECK(reason(17, 128ull << 20) == EndReason::kHostError);
  CHECK(reason(1, 127ull << 20) == EndReason::kHostError);
  CHECK(reason(1, 65ull << 30) == EndReason::kHostError);
}

TEST_CASE("a file that is no kernel is an error with what is understood") {
  NEEDS_KVM();
  auto [here, there] = socket_pair(SOCK_SEQPACKET).value();
  protocol::vmm::Start start;
  start.kvm = Fd(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
  start.kernel = Fd(::memfd_create("empty", MFD_CLOEXEC));
  // With a disk, whose thread has narrowed itself by then and must still be able to end.
  start.disks.push_back({Fd(::memfd_create("disk", MFD_CLOEXEC)), false, "test"});
  REQUIRE(::ftruncate(start.disks[0].file.get(), 1 << 20) == 0);
  protocol::vmm::Packet packet = encode(start);
  REQUIRE(send_message(here.get(), packet.bytes, packet.fds));
  pid_t child = ::fork();
  if (child == 0) ::_exit(serve_control(std::move(there), Fd()));
  auto ended =
      protocol::vmm::decode_ended(receive_message(here.get(), protocol::vmm::kMaxMessage)->bytes)
          .value();
  ::waitpid(child, nullptr, 0);
  CHECK(ended.reason == EndReason::kHostError);
  CHECK(ended.message.find("kernel") != std::string::npos);
  CHECK(ended.remedy.find("vmlinux") != std::string::npos);
}

TEST_CASE(
    "V01-V11, V17: a hostile guest that plays with registers and rings does not end the VMM") {
  NEEDS_KVM();
  Fd disk(::memfd_create("disk", MFD_CLOEXEC));
  REQUIRE(::ftruncate(disk.get(), 1 << 20) == 0);
  protocol::vmm::Start start;
  start.disks.push_back({std::move(disk), false, "test"});
  std::optional<TinyRun> run = run_tiny_guest(hostile_guest(), std::move(start));
  REQUIRE(run);
  CHECK(run->ended.reason == EndReason::kPowerOff);
  CHECK(run->counter("user_exits") > 60'000);
}

TEST_CASE("a machine is built in a VM that was made before anything was known of it") {
  NEEDS_KVM();
  protocol::vmm::Start start;
  start.cpus = 2;
  std::optional<TinyRun> run = run_tiny_guest(power_off_guest(), std::move(start), {}, true);
  REQUIRE(run);
  CHECK(run->ended.reason == EndReason::kPowerOff);
  CHECK(WEXITSTATUS(run->wait_status) == 0);
}

// What the launcher may send instead of Start, and after Prepare.
EndReason reason_after(const std::vector<protocol::vmm::Packet>& packets) {
  auto [here, there] = socket_pair(SOCK_SEQPACKET).value();
  pid_t child = ::fork();
  if (child == 0) {
    here.reset();
    ::_exit(serve_control(std::move(there), Fd()));
  }
  there.reset();
  for (const protocol::vmm::Packet& packet : packets)
    if (!send_message(here.get(), packet.bytes, packet.fds)) break;
  auto ended =
      protocol::vmm::decode_ended(receive_message(here.get(), protocol::vmm::kMaxMessage)->bytes);
  here.reset();
  ::waitpid(child, nullptr, 0);
  return ended ? ended->reason : EndReason::kPowerOff;
}

TEST_CASE("Start without a KVM, Prepare twice or with something else is an error") {
  NEEDS_KVM();
  Fd kvm(::open("/dev/kvm", O_RDWR | O_CLOEXEC)), other(::memfd_create("other", MFD_CLOEXEC));
  protocol::vmm::Start start;
  start.kernel = tests::tiny_kernel(power_off_guest());
  CHECK(reason_after({encode(start)}) == EndReason::kHostError);
  protocol::vmm::Prepare twice{std::move(kvm)};
  CHECK(reason_after({encode(twice), encode(twice)}) == EndReason::kHostError);
  protocol::vmm::Prepare wrong{std::move(other)};
  CHECK(reason_after({encode(wrong), encode(start)}) == EndReason::kHostError);
}

// The steps that have waited, each for more than 100 us. A wait that belongs to the way a machine
// is built shows in every run; one that a busy host adds does not. So a step has waited if it did
// in each of five runs.
std::vector<std::string> waiting_steps(bool is_prepared) {
  std::map<std::string, uint64_t> least;
  for (int i = 0; i < 5; i++) {
    protocol::vmm::Start start;
    start.description = protocol::vmm::Description::kDeviceTree;
    std::optional<TinyRun> run =
        run_tiny_guest(power_off_guest(), std::move(start), {}, is_prepared);
    REQUIRE(run);
    for (const auto& counter : run->ended.report.counters) {
      if (!counter.name.starts_with("off_cpu_ns/")) continue;
      auto [entry, is_new] = least.try_emplace(counter.name, counter.value);
      entry->second = std::min(entry->second, counter.value);
    }
  }
  CHECK(least.size() >= 8);
  std::vector<std::string> waiting;
  for (const auto& step : least)
    if (step.second > 100'000) waiting.push_back(step.first.substr(11));
  return waiting;
}

TEST_CASE("until the first KVM_RUN nothing waits but KVM_CREATE_VM and the first memory slot") {
  NEEDS_KVM();
  for (const std::string& step : waiting_steps(false)) {
    INFO(step);
    CHECK((step == "create_vm" || step == "first_memory_slot"));
  }
  for (const std::string& step : waiting_steps(true)) {
    INFO(step);
    CHECK(step == "first_memory_slot");
  }
}

TEST_CASE("instructions on which KVM gives up are named") {
  using Bytes = std::vector<uint8_t>;
  CHECK(describe_instruction(Bytes{0xf3, 0x48, 0x0f, 0xb8, 0xd9}) == "popcnt (f3 48 0f b8 d9)");
  CHECK(describe_instruction(Bytes{0xcc}) == "int3 (cc)");
  CHECK(describe_instruction(Bytes{0xf0, 0x48, 0x0f, 0xc7, 0x0f}) ==
        "cmpxchg8b/16b (f0 48 0f c7 0f)");
  CHECK(describe_instruction(Bytes{0x90}) == "the instruction 90");
  CHECK(describe_instruction(Bytes{}) == "an instruction that could not be read");
  CHECK(describe_instruction(Bytes{0xf3}) == "the instruction f3");
}

TEST_CASE("exits are counted by address, and a guest cannot make the table grow") {
  ExitCounters counters;
  for (uint64_t address = 0; address < 10'000; address++)
    counters.count(ExitCounters::Kind::kMmio, address * 4096);
  counters.count(ExitCounters::Kind::kPort, 0x3f8);
  std::vector<protocol::vmm::Counter> list;
  counters.add_to(list, "exits");
  CHECK(list.size() == 256 + 2);
  CHECK(list[0].name == "exits");
  CHECK(list[0].value == 10'001);
  CHECK(list.back().name == "exits/other");
  CHECK(list.back().value == 10'001 - 256);
}

TEST_CASE("a step that blocks itself is a wait, one that computes is not") {
  StartSteps steps;
  uint64_t until = monotonic_ns() + 2'000'000;
  while (monotonic_ns() < until) {
  }
  steps.done("compute");
  timespec pause{0, 2'000'000};
  ::nanosleep(&pause, nullptr);
  steps.done("sleep");
  std::vector<protocol::vmm::Counter> list;
  steps.add_to(list);
  auto value = [&](const std::string& name) {
    for (const auto& counter : list)
      if (counter.name == name) return counter.value;
    return uint64_t{0};
  };
  CHECK(value("off_cpu_ns/sleep") > 1'000'000);
  CHECK(value("off_cpu_ns/compute") == 0);
  CHECK(value("waits_until_first_run") == 1);
}

}  // namespace
}  // namespace hutch::vmm
