#include "boot/x86_params.h"

#include <asm/bootparam.h>

#include <array>
#include <cstddef>
#include <cstring>

#include "base/wire.h"
#include "boot/layout.h"

namespace hutch::boot {
namespace {

constexpr uint32_t kE820Ram = 1;
constexpr uint32_t kE820Reserved = 2;
constexpr uint32_t kSetupRandomSeed = 9;  // SETUP_RNG_SEED
// A platform without CMOS clock and PS/2 controller: saves their probes, changes nothing else.
constexpr uint32_t kHardwareSubarchitecture = 4;  // X86_SUBARCH_CE4100

struct MemoryMapEntry {
  GuestRange range;
  uint32_t type = kE820Ram;
};

std::vector<MemoryMapEntry> memory_map(uint64_t size) {
  GuestAddress generation_id = generation_id_page(size);
  std::vector<MemoryMapEntry> map{
      {{GuestAddress(0), kLowMemoryEnd.value()}, kE820Ram},
      {{kLowMemoryEnd, kHighMemoryStart.value() - kLowMemoryEnd.value()}, kE820Reserved},
      {{kHighMemoryStart, generation_id.value() - kHighMemoryStart.value()}, kE820Ram},
      {{generation_id, kPageSize}, kE820Reserved}};
  if (size > kHoleStart.value()) map.push_back({{kHoleEnd, size - kHoleStart.value()}, kE820Ram});
  return map;
}

Result<void> write_command_line(const GuestMemory& memory, const std::string& text) {
  if (text.size() >= kCommandLineCapacity)
    return fail(fmt::format("the kernel command line has {} bytes; at most {} fit", text.size(),
                            kCommandLineCapacity - 1));
  return memory.write_bytes(kCommandLine, std::as_bytes(std::span(text.c_str(), text.size() + 1)));
}

// Flat segments: null, unused, code at 0x10, data at 0x18, task state at 0x20.
Result<void> write_gdt(const GuestMemory& memory) {
  std::array<uint64_t, 5> table{0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x008f8b000000ffff};
  return memory.write(kGdt, table);
}

// The first 4 GiB one to one in 2 MiB pages; the kernel makes its own tables at once.
Result<void> write_page_tables(const GuestMemory& memory) {
  constexpr uint64_t kPresentWritable = 3;
  constexpr uint64_t kLargePage = 0x80;
  TRY(memory.write(kPageMapLevel4, kPageDirectoryPointers.value() | kPresentWritable));
  for (uint64_t i = 0; i < 4; i++) {
    uint64_t directory = kPageDirectories.value() + i * kPageSize;
    TRY(memory.write(*kPageDirectoryPointers.offset(i * 8), directory | kPresentWritable));
    std::array<uint64_t, 512> entries;
    for (uint64_t j = 0; j < entries.size(); j++)
      entries[j] = (i * kGiB + j * 2 * kMiB) | kPresentWritable | kLargePage;
    TRY(memory.write(GuestAddress(directory), entries));
  }
  return {};
}

// Appends one setup_data entry and returns the address behind it, 16-byte aligned.
struct SetupDataWriter {
  const GuestMemory& memory;
  GuestAddress next = kSetupData;
  uint64_t first = 0;
  std::optional<GuestAddress> previous;

  Result<void> add(uint32_t type, std::span<const std::byte> data) {
    struct Header {
      le64 next;
      le32 type;
      le32 length;
    };
    static_assert(sizeof(Header) == 16);
    if (data.size() > kSetupDataCapacity - sizeof(Header) - (next.value() - kSetupData.value()))
      return fail(fmt::format("{} bytes of setup data do not fit", data.size()));
    Header header{0, type, static_cast<uint32_t>(data.size())};
    TRY(memory.write(next, header));
    TRY(memory.write_bytes(GuestAddress(next.value() + sizeof header), data));
    if (previous) {
      TRY(memory.write(*previous, next.value()));
    } else {
      first = next.value();
    }
    previous = next;
    next = GuestAddress((next.value() + sizeof header + data.size() + 15) & ~15ull);
    return {};
  }
};

}  // namespace

Result<EntryState> prepare_linux64(const GuestMemory& memory, const LoadedKernel& kernel,
                                   const BootInput& input) {
  TRY(write_gdt(memory));
  TRY(write_page_tables(memory));
  TRY(write_command_line(memory, input.command_line));

  boot_params params{};
  if (kernel.setup_header.empty()) {
    params.hdr.boot_flag = 0xaa55;
    params.hdr.header = 0x53726448;  // "HdrS"
    params.hdr.version = 0x020f;
    params.hdr.kernel_alignment = 0x1000000;
    params.hdr.hardware_subarch = kHardwareSubarchitecture;
  } else {
    std::memcpy(&params.hdr, kernel.setup_header.data(),
                std::min(kernel.setup_header.size(), sizeof params.hdr));
  }
  params.hdr.type_of_loader = 0xff;
  params.hdr.loadflags = static_cast<uint8_t>(params.hdr.loadflags | LOADED_HIGH);
  params.hdr.cmd_line_ptr = static_cast<uint32_t>(kCommandLine.value());
  params.hdr.cmdline_size = static_cast<uint32_t>(input.command_line.size());
  if (input.initramfs) {
    params.hdr.ramdisk_image = static_cast<uint32_t>(input.initramfs->start.value());
    params.hdr.ramdisk_size = static_cast<uint32_t>(input.initramfs->size);
  }

  SetupDataWriter setup_data{memory};
  if (!input.device_tree.empty()) TRY(setup_data.add(SETUP_DTB, input.device_tree));
  if (!input.random_seed.empty()) TRY(setup_data.add(kSetupRandomSeed, input.random_seed));
  params.hdr.setup_data = setup_data.first;

  std::vector<MemoryMapEntry> map = memory_map(input.memory_size);
  for (size_t i = 0; i < map.size(); i++)
    params.e820_table[i] = {map[i].range.start.value(), map[i].range.size, map[i].type};
  params.e820_entries = static_cast<uint8_t>(map.size());
  TRY(memory.write(kBootParams, params));

  return EntryState{.mode = EntryState::Mode::kLong,
                    .instruction_pointer = kernel.entry.value(),
                    .rsi = kBootParams.value()};
}

Result<EntryState> prepare_pvh(const GuestMemory& memory, const LoadedKernel& kernel,
                               const BootInput& input) {
  if (!kernel.pvh_entry) return fail("the kernel has no PVH entry point");
  struct StartInfo {
    le32 magic, version, flags, module_count;
    le64 module_list, command_line, root_pointer, memory_map;
    le32 memory_map_entries, reserved;
  };
  static_assert(sizeof(StartInfo) == 56);
  struct Module {
    le64 address, size, command_line, reserved;
  };
  struct MapEntry {
    le64 address, size;
    le32 type, reserved;
  };

  TRY(write_gdt(memory));
  TRY(write_command_line(memory, input.command_line));
  StartInfo info{};
  info.magic = 0x336ec578;
  info.version = 1;
  info.command_line = kCommandLine.value();
  if (input.initramfs) {
    Module module{input.initramfs->start.value(), input.initramfs->size, 0, 0};
    TRY(memory.write(kPvhModule, module));
    info.module_count = 1;
    info.module_list = kPvhModule.value();
  }
  std::vector<MemoryMapEntry> map = memory_map(input.memory_size);
  for (size_t i = 0; i < map.size(); i++) {
    MapEntry entry{map[i].range.start.value(), map[i].range.size, map[i].type, 0};
    TRY(memory.write(*kPvhMemoryMap.offset(i * sizeof entry), entry));
  }
  info.memory_map = kPvhMemoryMap.value();
  info.memory_map_entries = static_cast<uint32_t>(map.size());
  TRY(memory.write(kPvhStartInfo, info));
  return EntryState{.mode = EntryState::Mode::kProtected,
                    .instruction_pointer = kernel.pvh_entry->value(),
                    .rbx = kPvhStartInfo.value()};
}

}  // namespace hutch::boot
