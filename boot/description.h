// The machine as it is described to the guest kernel: a flattened device tree, or an MP table and
// words on the command line. Both are made from the same list of parts.
//
// Sources: Devicetree Specification 0.4 and Linux arch/x86/kernel/devicetree.c; Intel
// MultiProcessor Specification 1.4; Linux drivers/virtio/virtio_mmio.c for the command line.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "memory/guest_memory.h"

namespace hutch::boot {

struct VirtioSlot {
  GuestAddress address;    // of a page of registers
  uint32_t interrupt = 0;  // IOAPIC pin
};

struct MachineParts {
  uint32_t cpus = 1;  // local APIC ids 0 .. cpus - 1
  // Whether the kernel should drive the serial port. Its driver costs the boot dozens of exits; the
  // early console writes to the port without being told of it.
  bool has_console = false;
  GuestAddress generation_id;
  std::vector<VirtioSlot> virtio;
};

// A flattened device tree (libfdt), at most kSetupDataCapacity bytes with its header.
Result<std::vector<std::byte>> device_tree(const MachineParts& parts);

// Writes an MP table for the CPUs, the IOAPIC and its 24 pins where kernels look for it.
Result<void> write_mp_table(const GuestMemory& memory, const MachineParts& parts);
// What describes the virtio devices to a kernel without a device tree, with a leading space.
std::string virtio_command_line(const MachineParts& parts);

}  // namespace hutch::boot
