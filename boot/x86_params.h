// What an x86 kernel is started with: boot_params or the PVH start information, the memory map, the
// command line, descriptor tables and page tables; and the register values of the entry.
//
// Sources: Linux Documentation/arch/x86/boot.rst ("64-bit Boot Protocol", "The zero page"); Xen
// docs/misc/pvh.pandoc and public/arch-x86/hvm/start_info.h.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "boot/kernel.h"
#include "memory/guest_memory.h"

namespace hutch::boot {

// How the first vCPU begins.
struct EntryState {
  enum class Mode { kLong, kProtected };  // 64-bit with paging; 32-bit flat without
  Mode mode = Mode::kLong;
  uint64_t instruction_pointer = 0;
  uint64_t rsi = 0;  // boot_params, in long mode
  uint64_t rbx = 0;  // start information, in protected mode
};

struct BootInput {
  uint64_t memory_size = 0;  // bytes of guest memory
  std::string command_line;
  std::optional<GuestRange> initramfs;
  std::vector<std::byte> device_tree;  // empty: none
  std::vector<std::byte> random_seed;  // up to 64 bytes for the kernel's pool
};

// Writes everything for the 64-bit boot protocol.
Result<EntryState> prepare_linux64(const GuestMemory& memory, const LoadedKernel& kernel,
                                   const BootInput& input);
// Writes everything for the PVH protocol. The kernel must have a PVH entry; no device tree.
Result<EntryState> prepare_pvh(const GuestMemory& memory, const LoadedKernel& kernel,
                               const BootInput& input);

}  // namespace hutch::boot
