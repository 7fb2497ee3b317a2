#include "boot/kernel.h"

#include <asm/bootparam.h>
#include <elf.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>

#include "base/sys.h"

namespace hutch::boot {
namespace {

constexpr const char* kKinds = "give an uncompressed 64-bit ELF vmlinux or a bzImage for x86-64";
constexpr size_t kMaxProgramHeaders = 64;
constexpr uint64_t kMaxNotes = 64 * 1024;
constexpr uint64_t kMaxImage = 1ull << 30;
constexpr uint32_t kBuildSaltNote = 0x100;  // LINUX_ELFNOTE_BUILD_SALT, owner "Linux"
constexpr std::string_view kDeviceTreeSalt = "hutch:device-tree";
constexpr uint32_t kPvhEntryNote = 18;  // XEN_ELFNOTE_PHYS32_ENTRY, owner "Xen"
constexpr uint64_t kPageSize = 4096;
constexpr size_t kSetupHeaderOffset = 0x1f1;
constexpr uint64_t kEntry64Offset = 0x200;  // of the protected-mode code
constexpr uint64_t kSectorSize = 512;

template <GuestPod T>
Result<T> read_at(int file, uint64_t offset) {
  T value;
  TRY(read_exactly_at(file, std::as_writable_bytes(std::span(&value, 1)), offset));
  return value;
}

bool inside(uint64_t offset, uint64_t size, uint64_t limit) {
  return offset <= limit && size <= limit - offset;
}

// The kernel fills guest memory straight from the file.
Result<void> load_bytes(const GuestMemory& memory, int file, uint64_t offset, GuestRange target) {
  iovec view = TRY(memory.view(target));
  return read_exactly_at(file, {static_cast<std::byte*>(view.iov_base), view.iov_len}, offset);
}

uint64_t round_up(uint64_t value, uint64_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

// Finds the two notes that matter in a PT_NOTE segment. Broken notes end the search: notes are
// hints.
void read_notes(std::span<const std::byte> bytes, LoadedKernel& kernel) {
  while (bytes.size() >= sizeof(Elf64_Nhdr)) {
    Elf64_Nhdr header;
    std::memcpy(&header, bytes.data(), sizeof header);
    bytes = bytes.subspan(sizeof header);
    uint64_t name_size = round_up(header.n_namesz, 4);
    uint64_t value_size = round_up(header.n_descsz, 4);
    if (name_size + value_size > bytes.size()) return;
    std::string_view name(reinterpret_cast<const char*>(bytes.data()), header.n_namesz);
    std::span<const std::byte> value = bytes.subspan(name_size, header.n_descsz);
    bytes = bytes.subspan(name_size + value_size);
    if (name.ends_with('\0')) name.remove_suffix(1);

    if (name == "Linux" && header.n_type == kBuildSaltNote) {
      std::string_view salt(reinterpret_cast<const char*>(value.data()), value.size());
      if (salt.ends_with('\0')) salt.remove_suffix(1);
      kernel.takes_device_tree = salt == kDeviceTreeSalt;
    } else if (name == "Xen" && header.n_type == kPvhEntryNote && value.size() >= 4) {
      uint32_t address;
      std::memcpy(&address, value.data(), sizeof address);
      kernel.pvh_entry = GuestAddress(address);
    }
  }
}

Result<LoadedKernel> load_elf(const GuestMemory& memory, int file, uint64_t size,
                              GuestRange window) {
  Elf64_Ehdr header = TRY(read_at<Elf64_Ehdr>(file, 0));
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB ||
      header.e_machine != EM_X86_64)
    return fail("the kernel is an ELF file, but not for x86-64", kKinds);
  if (header.e_phentsize != sizeof(Elf64_Phdr) || header.e_phnum == 0 ||
      header.e_phnum > kMaxProgramHeaders ||
      !inside(header.e_phoff, header.e_phnum * sizeof(Elf64_Phdr), size))
    return fail("the kernel's ELF program headers are broken", kKinds);

  LoadedKernel kernel;
  kernel.entry = GuestAddress(header.e_entry);
  uint64_t end = 0;
  bool entry_is_loaded = false;
  for (uint64_t i = 0; i < header.e_phnum; i++) {
    auto segment = TRY(read_at<Elf64_Phdr>(file, header.e_phoff + i * sizeof(Elf64_Phdr)));
    if (segment.p_type == PT_NOTE && segment.p_filesz <= kMaxNotes &&
        inside(segment.p_offset, segment.p_filesz, size)) {
      std::vector<std::byte> notes(segment.p_filesz);
      TRY(read_exactly_at(file, notes, segment.p_offset));
      read_notes(notes, kernel);
    }
    if (segment.p_type != PT_LOAD || segment.p_memsz == 0) continue;
    GuestRange target{GuestAddress(segment.p_paddr), segment.p_memsz};
    if (segment.p_filesz > segment.p_memsz || !inside(segment.p_offset, segment.p_filesz, size))
      return fail("a segment of the kernel lies outside its file", kKinds);
    if (!window.contains(target))
      return fail(
          fmt::format("the kernel wants {} KiB at {:#x}, which is outside the machine's memory",
                      segment.p_memsz >> 10, segment.p_paddr),
          "give the machine more memory with --memory");
    // Memory behind the file's part is zero already: guest memory is new.
    TRY(load_bytes(memory, file, segment.p_offset, {target.start, segment.p_filesz}));
    end = std::max(end, target.end()->value());
    entry_is_loaded |= target.contains({kernel.entry, 1});
  }
  if (!entry_is_loaded) return fail("the kernel's entry point is in none of its segments", kKinds);
  if (kernel.pvh_entry && !window.contains({*kernel.pvh_entry, 1})) kernel.pvh_entry.reset();
  kernel.end = GuestAddress(end);
  return kernel;
}

Result<LoadedKernel> load_bzimage(const GuestMemory& memory, int file, uint64_t size,
                                  GuestRange window) {
  auto setup = TRY(read_at<setup_header>(file, kSetupHeaderOffset));
  // 2.12 brought xloadflags, which say whether there is a 64-bit entry point.
  if (setup.version < 0x020c || (setup.loadflags & LOADED_HIGH) == 0 ||
      (setup.xloadflags & XLF_KERNEL_64) == 0)
    return fail("the bzImage has no 64-bit entry point", kKinds);
  uint64_t setup_sectors = setup.setup_sects == 0 ? 4 : setup.setup_sects;
  uint64_t code_offset = (setup_sectors + 1) * kSectorSize;
  if (code_offset >= size) return fail("the bzImage ends inside its setup code", kKinds);
  uint64_t code_size = size - code_offset;

  GuestRange target{GuestAddress(setup.pref_address),
                    std::max<uint64_t>(setup.init_size, code_size)};
  if (!window.contains(target))
    return fail(
        fmt::format("the kernel wants {} KiB at {:#x}, which is outside the machine's memory",
                    target.size >> 10, target.start.value()),
        "give the machine more memory with --memory");
  if (code_size < kEntry64Offset) return fail("the bzImage ends inside its code", kKinds);
  TRY(load_bytes(memory, file, code_offset, {target.start, code_size}));

  LoadedKernel kernel;
  kernel.entry = *target.start.offset(kEntry64Offset);
  kernel.end = *target.end();
  // The header goes on for as long as the jump over it says (boot.rst, "The real-mode kernel
  // header").
  size_t header_size =
      std::clamp<size_t>(0x202 + (setup.jump >> 8) - kSetupHeaderOffset, 0, sizeof setup);
  const auto* bytes = reinterpret_cast<const std::byte*>(&setup);
  kernel.setup_header.assign(bytes, bytes + header_size);
  return kernel;
}

}  // namespace

Result<LoadedKernel> load_kernel(const GuestMemory& memory, int file, GuestRange window) {
  uint64_t size = TRY(file_size(file));
  if (size > kMaxImage) return fail(fmt::format("a kernel of {} MiB", size >> 20), kKinds);
  if (size >= sizeof(Elf64_Ehdr)) {
    auto magic = TRY(read_at<std::array<char, 4>>(file, 0));
    if (std::memcmp(magic.data(), ELFMAG, SELFMAG) == 0)
      return load_elf(memory, file, size, window);
  }
  if (size >= kSetupHeaderOffset + sizeof(setup_header)) {
    auto setup = TRY(read_at<setup_header>(file, kSetupHeaderOffset));
    if (setup.header == 0x53726448 && setup.boot_flag == 0xaa55)  // "HdrS"
      return load_bzimage(memory, file, size, window);
  }
  return fail("the kernel is neither an ELF file nor a bzImage", kKinds);
}

Result<GuestRange> load_initramfs(const GuestMemory& memory, int file, GuestRange window) {
  uint64_t size = TRY(file_size(file));
  if (size == 0) return fail("the initramfs is empty");
  uint64_t window_end = window.start.value() + window.size;
  uint64_t room = round_up(size, kPageSize);
  if (room > window.size || room < size)
    return fail(fmt::format("the initramfs of {} KiB does not fit beside the kernel", size >> 10),
                "give the machine more memory with --memory");
  GuestAddress start((window_end - room) & ~(kPageSize - 1));
  if (start < window.start)
    return fail(fmt::format("the initramfs of {} KiB does not fit beside the kernel", size >> 10),
                "give the machine more memory with --memory");
  GuestRange target{start, size};
  TRY(load_bytes(memory, file, 0, target));
  return target;
}

}  // namespace hutch::boot
