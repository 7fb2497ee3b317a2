// The MP table of the Intel MultiProcessor Specification 1.4, chapter 4, and the command line words
// that go with it.
#include <array>
#include <cstring>
#include <numeric>

#include "base/wire.h"
#include "boot/description.h"
#include "boot/layout.h"

namespace hutch::boot {
namespace {

struct FloatingPointer {
  std::array<char, 4> signature{'_', 'M', 'P', '_'};
  le32 table_address;
  uint8_t length = 1;  // in 16-byte units
  uint8_t revision = 4;
  uint8_t checksum = 0;
  std::array<uint8_t, 5> features{};
};
static_assert(sizeof(FloatingPointer) == 16);

struct TableHeader {
  std::array<char, 4> signature{'P', 'C', 'M', 'P'};
  le16 length;
  uint8_t revision = 4;
  uint8_t checksum = 0;
  std::array<char, 8> oem{'H', 'U', 'T', 'C', 'H', ' ', ' ', ' '};
  std::array<char, 12> product{'M', 'I', 'C', 'R', 'O', 'V', 'M', ' ', ' ', ' ', ' ', ' '};
  le32 oem_table{0u};
  le16 oem_table_size{uint16_t{0}};
  le16 entry_count;
  le32 local_apic;
  le16 extended_length{uint16_t{0}};
  uint8_t extended_checksum = 0;
  uint8_t reserved = 0;
};
static_assert(sizeof(TableHeader) == 44);

struct ProcessorEntry {
  uint8_t type = 0;
  uint8_t apic_id = 0;
  uint8_t apic_version = 0x14;
  uint8_t flags = 0;  // bit 0 enabled, bit 1 boot processor
  le32 signature{0x600u};
  le32 features{0x201u};  // local APIC, FPU
  std::array<uint8_t, 8> reserved{};
};
static_assert(sizeof(ProcessorEntry) == 20);

struct BusEntry {
  uint8_t type = 1;
  uint8_t id = 0;
  std::array<char, 6> name{'I', 'S', 'A', ' ', ' ', ' '};
};

struct IoApicEntry {
  uint8_t type = 2;
  uint8_t id = 0;
  uint8_t version = 0x11;
  uint8_t flags = 1;
  le32 address;
};

struct InterruptEntry {
  uint8_t type = 3;         // 3: of the IOAPIC, 4: local
  uint8_t kind = 0;         // 0 vectored, 1 NMI, 3 external
  le16 flags{uint16_t{0}};  // polarity and trigger of the bus: ISA is edge, high
  uint8_t bus = 0;
  uint8_t bus_interrupt = 0;
  uint8_t apic_id = 0;
  uint8_t pin = 0;
};
static_assert(sizeof(BusEntry) == 8 && sizeof(IoApicEntry) == 8 && sizeof(InterruptEntry) == 8);

constexpr uint8_t kPins = 24;

uint8_t checksum(std::span<const std::byte> bytes) {
  return static_cast<uint8_t>(
      -std::accumulate(bytes.begin(), bytes.end(), 0,
                       [](int sum, std::byte byte) { return sum + static_cast<int>(byte); }));
}

}  // namespace

Result<void> write_mp_table(const GuestMemory& memory, const MachineParts& parts) {
  std::vector<std::byte> entries;
  uint16_t count = 0;
  auto add = [&](const auto& entry) {
    const auto* bytes = reinterpret_cast<const std::byte*>(&entry);
    entries.insert(entries.end(), bytes, bytes + sizeof entry);
    count++;
  };
  for (uint32_t cpu = 0; cpu < parts.cpus; cpu++) {
    ProcessorEntry processor;
    processor.apic_id = static_cast<uint8_t>(cpu);
    processor.flags = static_cast<uint8_t>(cpu == 0 ? 3 : 1);
    add(processor);
  }
  add(BusEntry{});
  auto io_apic_id = static_cast<uint8_t>(parts.cpus);
  add(IoApicEntry{.id = io_apic_id, .address = static_cast<uint32_t>(kIoApic.value())});
  for (uint8_t pin = 0; pin < kPins; pin++)
    add(InterruptEntry{.bus_interrupt = pin, .apic_id = io_apic_id, .pin = pin});
  add(InterruptEntry{.type = 4, .kind = 3, .apic_id = 0, .pin = 0});
  add(InterruptEntry{.type = 4, .kind = 1, .apic_id = 0xff, .pin = 1});

  GuestAddress table_address = *kMpTable.offset(sizeof(FloatingPointer));
  TableHeader header{};
  header.length = static_cast<uint16_t>(sizeof header + entries.size());
  header.entry_count = count;
  header.local_apic = static_cast<uint32_t>(kLocalApic.value());
  std::vector<std::byte> table(sizeof header + entries.size());
  std::memcpy(table.data(), &header, sizeof header);
  std::memcpy(table.data() + sizeof header, entries.data(), entries.size());
  table[offsetof(TableHeader, checksum)] = std::byte{checksum(table)};

  FloatingPointer pointer{};
  pointer.table_address = static_cast<uint32_t>(table_address.value());
  pointer.checksum = checksum(std::as_bytes(std::span(&pointer, 1)));
  TRY(memory.write(kMpTable, pointer));
  return memory.write_bytes(table_address, table);
}

std::string virtio_command_line(const MachineParts& parts) {
  std::string words;
  for (const VirtioSlot& slot : parts.virtio)
    words += fmt::format(" virtio_mmio.device=4K@{:#x}:{}", slot.address.value(), slot.interrupt);
  return words;
}

}  // namespace hutch::boot
