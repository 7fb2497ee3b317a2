#include "bench/first_byte.h"

#include <elf.h>
#include <fcntl.h>
#include <hutch.h>
#include <poll.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>

#include "base/sys.h"
#include "bench/child.h"
#include "bench/machine.h"

namespace hutch::bench {
namespace {

constexpr uint64_t kBase = 16 << 20;
constexpr int kAnswerMs = 60'000;
// mov $0x3f8, %dx; mov $'!', %al; out %al, %dx; hlt; jmp back to it. In 64-bit mode the first
// instruction has a prefix.
constexpr char kCode16[] = "\xba\xf8\x03\xb0\x21\xee\xf4\xeb\xfd";
constexpr char kCode64[] = "\x66\xba\xf8\x03\xb0\x21\xee\xf4\xeb\xfd";

void write_file(const std::string& path, const std::string& content) {
  std::ofstream file(path, std::ios::binary);
  file << content;
  file.close();
  if (!file) throw BenchFailure(fmt::format("{} cannot be written", path));
}

template <typename T>
std::string bytes_of(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

std::string elf_kernel() {
  Elf64_Ehdr header{};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_machine = EM_X86_64;
  header.e_entry = kBase;
  header.e_phoff = sizeof header;
  header.e_phentsize = sizeof(Elf64_Phdr);
  header.e_phnum = 1;
  Elf64_Phdr segment{};
  segment.p_type = PT_LOAD;
  segment.p_offset = sizeof header + sizeof segment;
  segment.p_paddr = kBase;
  segment.p_filesz = segment.p_memsz = sizeof kCode64 - 1;
  return bytes_of(header) + bytes_of(segment) + std::string(kCode64, sizeof kCode64 - 1);
}

std::string firmware_image() {
  constexpr size_t kSize = 64 << 10, kResetVector = kSize - 16;
  std::string image(kSize, '\xf4');
  image.replace(kResetVector, sizeof kCode16 - 1, kCode16, sizeof kCode16 - 1);
  return image;
}

void wait_for_byte(const Fd& output, const char* whose) {
  pollfd ready{output.get(), POLLIN, 0};
  char byte = 0;
  if (::poll(&ready, 1, kAnswerMs) != 1 || ::read(output.get(), &byte, 1) != 1)
    throw BenchFailure(
        fmt::format("{} said nothing: it ended, or this host's KVM does not run a "
                    "test guest; see hutch doctor",
                    whose));
  if (byte != kFirstByte)
    throw BenchFailure(fmt::format("{} said something else than its guest does", whose));
}

struct Killed {
  Child child;
  ~Killed() {
    ::kill(child.process_id, SIGKILL);
    wait_for(child);
  }
};

}  // namespace

FirstByteGuest::FirstByteGuest() {
  char name[] = "/tmp/hutch-bench-XXXXXX";
  if (::mkdtemp(name) == nullptr) throw BenchFailure("no folder can be made in /tmp");
  folder_ = name;
  kernel_ = folder_ + "/kernel";
  firmware_ = folder_ + "/firmware";
  write_file(kernel_, elf_kernel());
  write_file(firmware_, firmware_image());
}

FirstByteGuest::~FirstByteGuest() {
  std::error_code error;
  std::filesystem::remove_all(folder_, error);
}

uint64_t hutch_first_byte(const FirstByteGuest& guest, const std::string& vmm,
                          uint64_t handicap_ns) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) < 0) throw BenchFailure("no pipe can be made");
  Fd output(ends[0]), serial(ends[1]);
  hutch_vm_options options{};
  options.size = sizeof options;
  options.cpus = 1;
  options.memory = uint64_t{128} << 20;
  options.kernel = guest.kernel().c_str();
  options.description = HUTCH_DESCRIBE_DEVICE_TREE;
  options.no_agent = 1;
  options.console_output_fd = serial.get();
  options.log_fd = STDERR_FILENO;
  options.vmm_path = vmm.c_str();
  options.end_with_thread = 1;
  hutch_vm* vm = nullptr;
  hutch_error* error = nullptr;
  uint64_t start = monotonic_ns();
  if (handicap_ns > 0) {
    timespec time{.tv_sec = 0, .tv_nsec = static_cast<long>(handicap_ns)};
    ::nanosleep(&time, nullptr);
  }
  check(hutch_vm_start(&options, &vm, &error), error);
  std::unique_ptr<hutch_vm, decltype(&hutch_vm_free)> owner(vm, hutch_vm_free);
  serial.reset();
  wait_for_byte(output, "hutch-vmm");
  return monotonic_ns() - start;
}

std::vector<std::string> qemu_first_byte_command(const FirstByteGuest& guest,
                                                 const std::string& program) {
  return {program, "-nodefaults", "-no-user-config", "-display", "none", "-M",
          "microvm,pit=off,pic=off,rtc=off,acpi=off,x-option-roms=off", "-accel", "kvm",
          // A model without features that a host's KVM may announce and then refuse.
          "-cpu", "qemu64,-svm,-pni", "-m", "128M", "-bios", guest.firmware(), "-chardev",
          "stdio,id=serial,signal=off", "-serial", "chardev:serial"};
}

uint64_t qemu_first_byte(const FirstByteGuest& guest, const std::string& program) {
  std::vector<std::string> command = qemu_first_byte_command(guest, program);
  uint64_t start = monotonic_ns();
  Killed qemu{start_child(command)};
  wait_for_byte(qemu.child.output, "QEMU");
  return monotonic_ns() - start;
}

}  // namespace hutch::bench
