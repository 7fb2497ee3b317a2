// A guest of a few instructions in a machine of our own, for tests that need the whole VMM but no
// kernel: it is wrapped as an ELF "kernel" and started through the VMM protocol in a child process,
// with the filters and the end of the real one.
//
// Such guests use only instructions that a KVM which cannot run ordinary kernels runs as well.
#pragma once

#include <elf.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/sys.h"
#include "memory/memory_image.h"
#include "protocol/vmm.h"
#include "vmm/control.h"

namespace hutch::tests {

constexpr uint64_t kTinyGuestBase = 16 << 20;

// An ELF file with `code` at 16 MiB, entered at its first byte in 64-bit mode.
inline Fd tiny_kernel(std::span<const std::byte> code) {
  Elf64_Ehdr header{};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_machine = EM_X86_64;
  header.e_entry = kTinyGuestBase;
  header.e_phoff = sizeof header;
  header.e_phentsize = sizeof(Elf64_Phdr);
  header.e_phnum = 1;
  Elf64_Phdr segment{};
  segment.p_type = PT_LOAD;
  segment.p_offset = sizeof header + sizeof segment;
  segment.p_paddr = kTinyGuestBase;
  segment.p_filesz = segment.p_memsz = code.size();
  Fd file(::memfd_create("tiny-kernel", MFD_CLOEXEC));
  for (std::span<const std::byte> part :
       {std::as_bytes(std::span(&header, 1)), std::as_bytes(std::span(&segment, 1)), code}) {
    if (!write_all(file.get(), part)) return {};
  }
  return file;
}

// Whether this host has a KVM at all; such tests say so and pass over when it has none.
inline bool have_kvm() {
  return ::access("/dev/kvm", R_OK | W_OK) == 0;
}

struct TinyRun {
  protocol::vmm::Ended ended;
  std::vector<protocol::vmm::Mark> marks;
  int wait_status = 0;  // of the VMM's process

  uint64_t counter(const std::string& name) const {
    for (const auto& counter : ended.report.counters)
      if (counter.name == name) return counter.value;
    return 0;
  }
};

// Starts a VMM in a child process with `start`, whose kernel is `code`. `after_start` runs here
// once the message has been sent and may use the control socket. With `is_prepared` the VM is made
// before the message comes. Nothing when the VMM died without Ended.
inline std::optional<TinyRun> run_tiny_guest(
    std::span<const std::byte> code, protocol::vmm::Start start = {},
    const std::function<void(int control)>& after_start = {}, bool is_prepared = false) {
  namespace vmm = protocol::vmm;
  Fd kvm(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
  start.kernel = tiny_kernel(code);
  if (start.memory == 0) start.memory = vmm::kMinMemory;
  auto [here, there] = socket_pair(SOCK_SEQPACKET).value();
  pid_t child = ::fork();
  if (child == 0) {
    here.reset();
    ::_exit(hutch::vmm::serve_control(std::move(there), open_page_map().value()));
  }
  there.reset();
  if (is_prepared) {
    vmm::Prepare prepare{std::move(kvm)};
    vmm::Packet packet = vmm::encode(prepare);
    if (!send_message(here.get(), packet.bytes, packet.fds)) return {};
    // It waits for the kernel meanwhile.
    ::usleep(50'000);
  } else {
    start.kvm = std::move(kvm);
  }
  vmm::Packet packet = vmm::encode(start);
  std::optional<TinyRun> run;
  TinyRun current;
  if (send_message(here.get(), packet.bytes, packet.fds)) {
    if (after_start) after_start(here.get());
    for (;;) {
      Result<ReceivedMessage> message = receive_message(here.get(), vmm::kMaxMessage);
      if (!message || message->bytes.empty()) break;
      if (Result<vmm::Mark> mark = vmm::decode_mark(message->bytes)) current.marks.push_back(*mark);
      if (Result<vmm::Ended> ended = vmm::decode_ended(message->bytes)) {
        current.ended = *std::move(ended);
        run = std::move(current);
        break;
      }
    }
  }
  here.reset();
  int status = 0;
  ::waitpid(child, &status, 0);
  if (run) run->wait_status = status;
  return run;
}

}  // namespace hutch::tests
