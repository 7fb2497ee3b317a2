// The flattened device tree. docs/guest-kernel.md says which of these properties Linux needs, and
// why.
#include <libfdt.h>

#include <cstring>

#include "boot/description.h"
#include "boot/layout.h"

namespace hutch::boot {
namespace {

// The second interrupt cell of an x86 tree: edge, rising.
constexpr uint32_t kEdgeRising = 3;

// libfdt's sequential writer; the first failure sticks.
class TreeWriter {
 public:
  explicit TreeWriter(size_t capacity) : bytes_(capacity) {
    keep(fdt_create(bytes_.data(), static_cast<int>(bytes_.size())));
    keep(fdt_finish_reservemap(bytes_.data()));
  }

  void begin(const std::string& name) { keep(fdt_begin_node(bytes_.data(), name.c_str())); }
  void end() { keep(fdt_end_node(bytes_.data())); }
  void flag(const char* name) { keep(fdt_property(bytes_.data(), name, nullptr, 0)); }
  void text(const char* name, const char* value) {
    keep(fdt_property(bytes_.data(), name, value, static_cast<int>(std::strlen(value)) + 1));
  }
  void cells(const char* name, std::initializer_list<uint32_t> values) {
    std::vector<fdt32_t> wire;
    for (uint32_t value : values) wire.push_back(cpu_to_fdt32(value));
    keep(fdt_property(bytes_.data(), name, wire.data(),
                      static_cast<int>(wire.size() * sizeof(fdt32_t))));
  }
  // `reg` with two address and two size cells.
  void registers(GuestAddress address, uint64_t size) {
    cells("reg",
          {static_cast<uint32_t>(address.value() >> 32), static_cast<uint32_t>(address.value()),
           static_cast<uint32_t>(size >> 32), static_cast<uint32_t>(size)});
  }
  void interrupt(uint32_t pin) { cells("interrupts", {pin, kEdgeRising}); }

  Result<std::vector<std::byte>> finish() {
    keep(fdt_finish(bytes_.data()));
    if (status_ != 0)
      return fail(fmt::format("building the device tree: {}", fdt_strerror(status_)));
    bytes_.resize(fdt_totalsize(bytes_.data()));
    return std::move(bytes_);
  }

 private:
  void keep(int status) {
    if (status_ == 0) status_ = status;
  }
  std::vector<std::byte> bytes_;
  int status_ = 0;
};

constexpr uint32_t kIoApicHandle = 1;
constexpr uint32_t kPowerHandle = 2;

std::string node_name(const char* name, GuestAddress address) {
  return fmt::format("{}@{:x}", name, address.value());
}

void write_cpus(TreeWriter& tree, uint32_t cpus) {
  tree.begin("cpus");
  tree.cells("#address-cells", {1});
  tree.cells("#size-cells", {0});
  for (uint32_t cpu = 0; cpu < cpus; cpu++) {
    tree.begin(fmt::format("cpu@{:x}", cpu));
    tree.text("device_type", "cpu");
    tree.cells("reg", {cpu});
    tree.end();
  }
  tree.end();
}

void write_interrupt_controllers(TreeWriter& tree) {
  tree.begin("interrupt-controllers");
  tree.cells("#address-cells", {2});
  tree.cells("#size-cells", {2});
  tree.flag("ranges");
  tree.begin(node_name("lapic", kLocalApic));
  tree.text("compatible", "intel,ce4100-lapic");
  tree.registers(kLocalApic, kPageSize);
  tree.flag("intel,virtual-wire-mode");
  tree.end();
  tree.begin(node_name("ioapic", kIoApic));
  tree.text("compatible", "intel,ce4100-ioapic");
  tree.registers(kIoApic, kPageSize);
  tree.flag("interrupt-controller");
  tree.cells("#interrupt-cells", {2});
  tree.cells("phandle", {kIoApicHandle});
  tree.end();
  tree.end();
}

void write_serial(TreeWriter& tree) {
  tree.begin(node_name("serial", kSerialMmio));
  tree.text("compatible", "ns16550a");
  tree.registers(kSerialMmio, 8);
  tree.cells("clock-frequency", {1843200});
  tree.interrupt(kSerialInterrupt);
  tree.end();
}

void write_platform_devices(TreeWriter& tree, GuestAddress generation_id) {
  tree.begin(node_name("vmgenid", generation_id));
  tree.text("compatible", "microsoft,vmgenid");
  tree.registers(generation_id, 16);
  tree.interrupt(kGenerationIdInterrupt);
  tree.end();

  tree.begin(node_name("pvpanic", kPanicMmio));
  tree.text("compatible", "qemu,pvpanic-mmio");
  tree.registers(kPanicMmio, 2);
  tree.end();

  tree.begin(node_name("syscon", kPowerMmio));
  tree.text("compatible", "syscon");
  tree.registers(kPowerMmio, 4);
  tree.cells("phandle", {kPowerHandle});
  tree.end();
  tree.begin("poweroff");
  tree.text("compatible", "syscon-poweroff");
  tree.cells("regmap", {kPowerHandle});
  tree.cells("offset", {0});
  tree.cells("value", {1});
  tree.end();
}

}  // namespace

Result<std::vector<std::byte>> device_tree(const MachineParts& parts) {
  TreeWriter tree(kSetupDataCapacity / 2);
  tree.begin("");
  tree.cells("#address-cells", {2});
  tree.cells("#size-cells", {2});
  tree.cells("interrupt-parent", {kIoApicHandle});
  tree.text("compatible", "hutch,microvm");
  tree.begin("chosen");
  tree.end();
  write_cpus(tree, parts.cpus);
  write_interrupt_controllers(tree);
  // The guest numbers its disks in the order of the tree.
  for (const VirtioSlot& slot : parts.virtio) {
    tree.begin(node_name("virtio", slot.address));
    tree.text("compatible", "virtio,mmio");
    tree.registers(slot.address, kMmioSlotSize);
    tree.interrupt(slot.interrupt);
    tree.end();
  }
  if (parts.has_console) write_serial(tree);
  write_platform_devices(tree, parts.generation_id);
  tree.end();
  return tree.finish();
}

}  // namespace hutch::boot
