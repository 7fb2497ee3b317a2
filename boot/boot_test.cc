#include <asm/bootparam.h>
#include <doctest/doctest.h>
#include <elf.h>
#include <libfdt.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <numeric>

#include "base/fd.h"
#include "base/sys.h"
#include "boot/description.h"
#include "boot/kernel.h"
#include "boot/layout.h"
#include "boot/x86_params.h"

namespace hutch::boot {
namespace {

constexpr uint64_t kMemorySize = 128 * kMiB;
const GuestRange kWindow{kHighMemoryStart, kMemorySize - 2 * kMiB};

GuestMemory make_memory() {
  return GuestMemory::create(memory_ranges(kMemorySize)).value();
}

Fd file_of(std::span<const std::byte> bytes) {
  Fd file(::memfd_create("image", MFD_CLOEXEC));
  REQUIRE(write_all(file.get(), bytes));
  return file;
}

template <typename T>
void append(std::vector<std::byte>& bytes, const T& value) {
  const auto* first = reinterpret_cast<const std::byte*>(&value);
  bytes.insert(bytes.end(), first, first + sizeof value);
}

void append_note(std::vector<std::byte>& bytes, const char* name, uint32_t type,
                 std::string_view value) {
  Elf64_Nhdr header{static_cast<uint32_t>(std::strlen(name) + 1),
                    static_cast<uint32_t>(value.size()), type};
  append(bytes, header);
  for (std::string_view text : {std::string_view(name, std::strlen(name) + 1), value}) {
    for (char c : text) bytes.push_back(static_cast<std::byte>(c));
    while (bytes.size() % 4 != 0) bytes.push_back(std::byte{0});
  }
}

// A minimal vmlinux: one segment of `code` bytes at 16 MiB and a note segment.
struct ElfImage {
  Elf64_Ehdr header{};
  Elf64_Phdr load{}, note{};
  std::vector<std::byte> notes;
  std::vector<std::byte> code = std::vector<std::byte>(64, std::byte{0x90});

  ElfImage() {
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_machine = EM_X86_64;
    header.e_entry = 0x1000000;
    header.e_phoff = sizeof header;
    header.e_phentsize = sizeof(Elf64_Phdr);
    header.e_phnum = 2;
    append_note(notes, "Linux", 0x100, std::string_view("hutch:device-tree\0", 18));
    append_note(notes, "Xen", 18, std::string_view("\x40\x00\x00\x01", 4));
    load = {.p_type = PT_LOAD,
            .p_flags = 5,
            .p_offset = 4096,
            .p_vaddr = 0,
            .p_paddr = 0x1000000,
            .p_filesz = code.size(),
            .p_memsz = 8192,
            .p_align = 4096};
    note = {.p_type = PT_NOTE,
            .p_flags = 4,
            .p_offset = 1024,
            .p_vaddr = 0,
            .p_paddr = 0,
            .p_filesz = notes.size(),
            .p_memsz = notes.size(),
            .p_align = 4};
  }

  std::vector<std::byte> bytes() const {
    std::vector<std::byte> image;
    append(image, header);
    append(image, load);
    append(image, note);
    image.resize(1024);
    image.insert(image.end(), notes.begin(), notes.end());
    image.resize(4096);
    image.insert(image.end(), code.begin(), code.end());
    return image;
  }
};

Result<LoadedKernel> load(const GuestMemory& memory, const ElfImage& image) {
  return load_kernel(memory, file_of(image.bytes()).get(), kWindow);
}

TEST_CASE("an ELF kernel is placed where it asks, with its entry points and its notes") {
  GuestMemory memory = make_memory();
  LoadedKernel kernel = load(memory, ElfImage()).value();
  CHECK(kernel.entry == GuestAddress(0x1000000));
  CHECK(kernel.pvh_entry == GuestAddress(0x1000040));
  CHECK(kernel.takes_device_tree);
  CHECK(kernel.end == GuestAddress(0x1002000));
  CHECK(memory.read<uint32_t>(GuestAddress(0x1000000)).value() == 0x90909090);
}

TEST_CASE("a kernel without our build salt does not get a device tree") {
  GuestMemory memory = make_memory();
  ElfImage image;
  image.notes.clear();
  append_note(image.notes, "Linux", 0x100, "Debian 6.1");
  image.note.p_filesz = image.notes.size();
  LoadedKernel kernel = load(memory, image).value();
  CHECK(!kernel.takes_device_tree);
  CHECK(!kernel.pvh_entry);
}

TEST_CASE("V30: every broken field of an ELF header is refused") {
  GuestMemory memory = make_memory();
  auto refused = [&](auto change) {
    ElfImage image;
    change(image);
    return !load(memory, image).has_value();
  };
  CHECK(refused([](ElfImage& i) { i.header.e_machine = EM_AARCH64; }));
  CHECK(refused([](ElfImage& i) { i.header.e_ident[EI_CLASS] = ELFCLASS32; }));
  CHECK(refused([](ElfImage& i) { i.header.e_phoff = UINT64_MAX - 8; }));
  CHECK(refused([](ElfImage& i) { i.header.e_phnum = 0; }));
  CHECK(refused([](ElfImage& i) { i.header.e_phnum = 0xffff; }));
  CHECK(refused([](ElfImage& i) { i.header.e_phentsize = 8; }));
  CHECK(refused([](ElfImage& i) { i.header.e_entry = 0x2000000; }));
  CHECK(refused([](ElfImage& i) { i.load.p_paddr = 0; }));
  CHECK(refused([](ElfImage& i) { i.load.p_paddr = kMemorySize - 4096; }));
  CHECK(refused([](ElfImage& i) { i.load.p_paddr = UINT64_MAX - 4095; }));
  CHECK(refused([](ElfImage& i) { i.load.p_memsz = UINT64_MAX; }));
  CHECK(refused([](ElfImage& i) { i.load.p_filesz = i.load.p_memsz + 1; }));
  CHECK(refused([](ElfImage& i) { i.load.p_offset = UINT64_MAX; }));
  CHECK(refused([](ElfImage& i) { i.load.p_offset = 1 << 20; }));
}

TEST_CASE("V30: notes that lie about their sizes are ignored, not followed") {
  GuestMemory memory = make_memory();
  ElfImage image;
  for (uint32_t size : {0xffffffffu, 0x80000000u, 1000u}) {
    Elf64_Nhdr lie{size, size, 18};
    std::memcpy(image.notes.data(), &lie, sizeof lie);
    LoadedKernel kernel = load(memory, image).value();
    CHECK(!kernel.pvh_entry);
  }
}

TEST_CASE(
    "V30: files that are neither kind, empty or cut short are refused with what is understood") {
  GuestMemory memory = make_memory();
  std::vector<std::byte> image = ElfImage().bytes();
  for (size_t size : {size_t{0}, size_t{3}, size_t{63}, size_t{64}, size_t{100}, size_t{4100}}) {
    Fd file = file_of(std::span(image).first(size));
    Result<LoadedKernel> loaded = load_kernel(memory, file.get(), kWindow);
    CHECK(!loaded);
  }
  std::vector<std::byte> text(8192, std::byte{'x'});
  Result<LoadedKernel> loaded = load_kernel(memory, file_of(text).get(), kWindow);
  REQUIRE(!loaded);
  CHECK(loaded.error().remedy.find("vmlinux") != std::string::npos);
}

std::vector<std::byte> bzimage(const setup_header& header) {
  std::vector<std::byte> image(0x1f1);
  append(image, header);
  image.resize(1024);
  image.resize(1024 + 0x1000, std::byte{0xcc});
  return image;
}

setup_header valid_setup_header() {
  setup_header header{};
  header.setup_sects = 1;
  header.boot_flag = 0xaa55;
  header.jump = 0x6aeb;
  header.header = 0x53726448;
  header.version = 0x020f;
  header.loadflags = LOADED_HIGH;
  header.xloadflags = XLF_KERNEL_64;
  header.pref_address = 0x1000000;
  header.init_size = 0x200000;
  return header;
}

TEST_CASE("a bzImage is entered 0x200 behind its protected-mode code") {
  GuestMemory memory = make_memory();
  LoadedKernel kernel =
      load_kernel(memory, file_of(bzimage(valid_setup_header())).get(), kWindow).value();
  CHECK(kernel.entry == GuestAddress(0x1000200));
  CHECK(kernel.end == GuestAddress(0x1200000));
  CHECK(memory.read<uint8_t>(GuestAddress(0x1000000)).value() == 0xcc);
  CHECK(!kernel.setup_header.empty());
}

TEST_CASE("V30: a bzImage that is old, 32-bit, cut short or too large is refused") {
  GuestMemory memory = make_memory();
  auto refused = [&](auto change) {
    setup_header header = valid_setup_header();
    change(header);
    return !load_kernel(memory, file_of(bzimage(header)).get(), kWindow).has_value();
  };
  CHECK(refused([](setup_header& h) { h.version = 0x0200; }));
  CHECK(refused([](setup_header& h) { h.xloadflags = 0; }));
  CHECK(refused([](setup_header& h) { h.setup_sects = 255; }));
  CHECK(refused([](setup_header& h) { h.init_size = 0xffffffff; }));
  CHECK(refused([](setup_header& h) { h.pref_address = UINT64_MAX; }));
  CHECK(refused([](setup_header& h) { h.pref_address = 0; }));
}

TEST_CASE("an initramfs lies page-aligned at the top of its window") {
  GuestMemory memory = make_memory();
  std::vector<std::byte> content(5000, std::byte{7});
  GuestRange placed = load_initramfs(memory, file_of(content).get(), kWindow).value();
  CHECK(placed.start.value() % kPageSize == 0);
  CHECK(placed.size == 5000);
  CHECK(placed.start.value() + 8192 == kWindow.end()->value());
  CHECK(!load_initramfs(memory, file_of(content).get(), {kHighMemoryStart, 4096}));
  CHECK(!load_initramfs(memory, file_of({}).get(), kWindow));
}

TEST_CASE("memory lies around the hole below 4 GiB") {
  CHECK(memory_ranges(1 * kGiB) == std::vector<GuestRange>{{GuestAddress(0), kGiB}});
  CHECK(memory_ranges(3 * kGiB).size() == 1);
  std::vector<GuestRange> large = memory_ranges(64 * kGiB);
  REQUIRE(large.size() == 2);
  CHECK(large[0].end() == kHoleStart);
  CHECK(large[1] == GuestRange{kHoleEnd, 61 * kGiB});
}

TEST_CASE("boot_params name the memory, the command line, the initramfs and the device tree") {
  GuestMemory memory = make_memory();
  LoadedKernel kernel;
  kernel.entry = GuestAddress(0x1000000);
  BootInput input;
  input.memory_size = kMemorySize;
  input.command_line = "quiet";
  input.initramfs = GuestRange{GuestAddress(0x4000000), 12345};
  input.device_tree.resize(100, std::byte{0xd0});
  input.random_seed.resize(32, std::byte{1});
  EntryState entry = prepare_linux64(memory, kernel, input).value();
  CHECK(entry.mode == EntryState::Mode::kLong);
  CHECK(entry.instruction_pointer == 0x1000000);

  auto params = memory.read<boot_params>(GuestAddress(entry.rsi)).value();
  CHECK(uint32_t{params.hdr.header} == 0x53726448);
  CHECK(uint32_t{params.hdr.ramdisk_image} == 0x4000000);
  CHECK(uint32_t{params.hdr.ramdisk_size} == 12345);
  CHECK(memory.read<std::array<char, 6>>(GuestAddress(params.hdr.cmd_line_ptr)).value() ==
        std::array<char, 6>{'q', 'u', 'i', 'e', 't', 0});
  struct SetupData {
    uint64_t next;
    uint32_t type, size;
  };
  auto tree = memory.read<SetupData>(GuestAddress(params.hdr.setup_data)).value();
  CHECK(tree.type == SETUP_DTB);
  CHECK(tree.size == 100);
  auto seed = memory.read<SetupData>(GuestAddress(tree.next)).value();
  CHECK(seed.type == 9);
  CHECK(seed.next == 0);

  // The map covers all of memory without overlap, and the generation ID's page is not RAM.
  uint64_t next = 0;
  for (unsigned i = 0; i < params.e820_entries; i++) {
    CHECK(uint64_t{params.e820_table[i].addr} == next);
    next += params.e820_table[i].size;
  }
  CHECK(next == kMemorySize);
  CHECK(uint32_t{params.e820_table[params.e820_entries - 1].type} == 2);
}

TEST_CASE("a command line or setup data that does not fit is an error") {
  GuestMemory memory = make_memory();
  BootInput input;
  input.memory_size = kMemorySize;
  input.command_line.assign(kCommandLineCapacity, 'x');
  CHECK(!prepare_linux64(memory, {}, input));
  input.command_line.clear();
  input.device_tree.resize(kSetupDataCapacity);
  CHECK(!prepare_linux64(memory, {}, input));
}

TEST_CASE("PVH is refused for a kernel without its entry point, else gets the start information") {
  GuestMemory memory = make_memory();
  BootInput input;
  input.memory_size = 5 * kGiB;
  CHECK(!prepare_pvh(memory, {}, input));
  LoadedKernel kernel;
  kernel.pvh_entry = GuestAddress(0x1000040);
  EntryState entry = prepare_pvh(memory, kernel, input).value();
  CHECK(entry.mode == EntryState::Mode::kProtected);
  CHECK(memory.read<uint32_t>(GuestAddress(entry.rbx)).value() == 0x336ec578);
}

MachineParts example_parts() {
  return {.cpus = 3,
          .generation_id = GuestAddress(0x7fff000),
          .virtio = {{kVirtioMmio, 5}, {*kVirtioMmio.offset(kMmioSlotSize), 6}}};
}

TEST_CASE("the device tree lists CPUs, interrupt controllers and virtio devices in order") {
  std::vector<std::byte> bytes = device_tree(example_parts()).value();
  const void* tree = bytes.data();
  REQUIRE(fdt_check_full(tree, bytes.size()) == 0);
  int cpus = fdt_path_offset(tree, "/cpus");
  int count = 0, node = 0;
  fdt_for_each_subnode(node, tree, cpus) count++;
  CHECK(count == 3);
  int size = 0;
  int first = fdt_node_offset_by_compatible(tree, -1, "virtio,mmio");
  const auto* cells = static_cast<const fdt32_t*>(fdt_getprop(tree, first, "interrupts", &size));
  REQUIRE(size == 8);
  CHECK(fdt32_to_cpu(cells[0]) == 5);
  CHECK(fdt32_to_cpu(cells[1]) == 3);
  int second = fdt_node_offset_by_compatible(tree, first, "virtio,mmio");
  CHECK(std::string(fdt_get_name(tree, second, nullptr)) == "virtio@d0011000");
  for (const char* compatible : {"intel,ce4100-ioapic", "intel,ce4100-lapic", "microsoft,vmgenid",
                                 "qemu,pvpanic-mmio", "syscon-poweroff"})
    CHECK(fdt_node_offset_by_compatible(tree, -1, compatible) > 0);
  CHECK(fdt_node_offset_by_compatible(tree, -1, "ns16550a") == -FDT_ERR_NOTFOUND);
}

TEST_CASE("the serial port is in the tree only when there is a console") {
  MachineParts parts = example_parts();
  parts.has_console = true;
  std::vector<std::byte> bytes = device_tree(parts).value();
  CHECK(fdt_node_offset_by_compatible(bytes.data(), -1, "ns16550a") > 0);
}

TEST_CASE("the MP table adds up to zero and is found through its floating pointer") {
  GuestMemory memory = make_memory();
  REQUIRE(write_mp_table(memory, example_parts()));
  auto sum = [&](GuestAddress address, size_t size) {
    std::vector<std::byte> bytes(size);
    REQUIRE(memory.read_bytes(address, bytes));
    return std::accumulate(bytes.begin(), bytes.end(), 0,
                           [](int total, std::byte b) { return total + static_cast<int>(b); }) &
           0xff;
  };
  CHECK(memory.read<uint32_t>(kMpTable).value() == 0x5f504d5f);  // "_MP_"
  CHECK(sum(kMpTable, 16) == 0);
  auto table = memory.read<uint32_t>(*kMpTable.offset(4)).value();
  auto length = memory.read<uint16_t>(GuestAddress(table + 4)).value();
  CHECK(sum(GuestAddress(table), length) == 0);
  // 3 processors, a bus, an IOAPIC, 24 pins and 2 local interrupts.
  CHECK(memory.read<uint16_t>(GuestAddress(table + 34)).value() == 3 + 1 + 1 + 24 + 2);
  CHECK(virtio_command_line(example_parts()) ==
        " virtio_mmio.device=4K@0xd0010000:5 virtio_mmio.device=4K@0xd0011000:6");
}

}  // namespace
}  // namespace hutch::boot
