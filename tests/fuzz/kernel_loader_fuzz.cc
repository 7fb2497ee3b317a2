// Fuzzes the loaders of guest kernels and initramfs images (V30): an image is a file that may be
// hostile.
//
// The input is laid over a valid image, an ELF file or a bzImage by its first byte: pairs of an
// offset (2 bytes) and a length (1 byte) followed by the bytes to put there. So most of the image
// is valid and the loaders are entered; an input that replaces the head reaches the first checks as
// well.
#include <asm/bootparam.h>
#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <vector>

#include "boot/kernel.h"
#include "boot/layout.h"
#include "tests/fuzz/fuzz_input.h"

namespace {

using namespace hutch;

constexpr size_t kImageSize = 8192;
constexpr uint64_t kMemorySize = 32 * boot::kMiB;

std::vector<uint8_t> elf_image() {
  std::vector<uint8_t> image(kImageSize, 0x90);
  Elf64_Ehdr header{};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_machine = EM_X86_64;
  header.e_entry = 0x1000000;
  header.e_phoff = sizeof header;
  header.e_phentsize = sizeof(Elf64_Phdr);
  header.e_phnum = 3;
  Elf64_Phdr segments[3]{};
  segments[0].p_type = segments[1].p_type = PT_LOAD;
  segments[0].p_offset = 4096;
  segments[0].p_paddr = 0x1000000;
  segments[0].p_filesz = 1024;
  segments[0].p_memsz = 4096;
  segments[1].p_offset = 5120;
  segments[1].p_paddr = 0x1100000;
  segments[1].p_filesz = segments[1].p_memsz = 512;
  segments[2].p_type = PT_NOTE;
  segments[2].p_offset = 512;
  segments[2].p_filesz = 64;
  std::memcpy(image.data(), &header, sizeof header);
  std::memcpy(image.data() + sizeof header, segments, sizeof segments);
  Elf64_Nhdr note{4, 4, 18};
  std::memcpy(image.data() + 512, &note, sizeof note);
  std::memcpy(image.data() + 512 + sizeof note, "Xen\0\x40\0\0\x01", 8);
  Elf64_Nhdr salt{6, 18, 0x100};
  std::memcpy(image.data() + 536, &salt, sizeof salt);
  std::memcpy(image.data() + 536 + sizeof salt, "Linux\0\0\0hutch:device-tree\0", 26);
  return image;
}

std::vector<uint8_t> bzimage() {
  std::vector<uint8_t> image(kImageSize, 0x90);
  setup_header header{};
  header.setup_sects = 1;
  header.boot_flag = 0xaa55;
  header.jump = 0x6aeb;
  header.header = 0x53726448;
  header.version = 0x020f;
  header.loadflags = LOADED_HIGH;
  header.xloadflags = XLF_KERNEL_64;
  header.pref_address = 0x1000000;
  header.init_size = 0x10000;
  std::memcpy(image.data() + 0x1f1, &header, sizeof header);
  return image;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::vector<uint8_t> elf = elf_image();
  static const std::vector<uint8_t> bz = bzimage();
  static const GuestMemory memory = GuestMemory::create(boot::memory_ranges(kMemorySize)).value();
  static const int file = ::memfd_create("image", MFD_CLOEXEC);
  if (size < 1) return 0;

  std::vector<uint8_t> image = (data[0] & 1) != 0 ? bz : elf;
  // The upper bits cut the file short.
  size_t length = data[0] >= 0x80 ? static_cast<size_t>(data[0] & 0x7e) * 32 : image.size();
  for (size_t at = 1; at + 3 <= size;) {
    size_t offset = static_cast<size_t>(data[at] | data[at + 1] << 8) % image.size();
    size_t count = data[at + 2];
    at += 3;
    for (size_t i = 0; i < count && at < size && offset + i < image.size(); i++)
      image[offset + i] = data[at++];
  }

  if (::ftruncate(file, static_cast<off_t>(length)) < 0 ||
      ::pwrite(file, image.data(), length, 0) != static_cast<ssize_t>(length))
    std::abort();
  const GuestRange window{boot::kHighMemoryStart, kMemorySize - 2 * boot::kMiB};
  Result<boot::LoadedKernel> kernel = boot::load_kernel(memory, file, window);
  if (kernel) {
    FUZZ_CHECK(window.contains({kernel->entry, 1}));
    FUZZ_CHECK(kernel->end > window.start && kernel->end <= *window.end());
    FUZZ_CHECK(!kernel->pvh_entry || window.contains({*kernel->pvh_entry, 1}));
    FUZZ_CHECK(kernel->setup_header.size() <= sizeof(setup_header));
    GuestRange rest{kernel->end, window.end()->value() - kernel->end.value()};
    if (Result<GuestRange> initramfs = boot::load_initramfs(memory, file, rest))
      FUZZ_CHECK(rest.contains(*initramfs));
  }
  return 0;
}
