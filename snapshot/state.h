// The parts of a saved machine, apart from the live ones: plain data that any version can read.
//
// What is the processor's or KVM's is kept as the bytes of KVM's own structures (linux/kvm.h),
// which never change their layout. No path, no descriptor, no address of the host is in here: what
// a machine needs besides is given when it is restored. All of it may be hostile when it comes from
// a file: encode() and decode() only keep its form; whoever restores a part checks it as it checks
// what a guest says.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "snapshot/fields.h"

namespace hutch::snapshot {

using Bytes = std::vector<std::byte>;

struct SavedMsr {
  uint32_t index = 0;
  uint64_t value = 0;
  bool operator==(const SavedMsr&) const = default;
};

struct SavedVcpu {
  Bytes registers;          // kvm_regs
  Bytes special_registers;  // kvm_sregs
  Bytes extended_state;     // kvm_xsave, as long as KVM_CAP_XSAVE2 says
  Bytes extended_controls;  // kvm_xcrs
  Bytes debug_registers;    // kvm_debugregs
  Bytes local_apic;         // kvm_lapic_state
  Bytes events;             // kvm_vcpu_events
  uint32_t run_state = 0;   // kvm_mp_state
  uint32_t tsc_khz = 0;     // 0: the host has no stable one
  std::vector<SavedMsr> msrs;
  bool operator==(const SavedVcpu&) const = default;
};

struct SavedQueue {
  uint32_t size = 0;
  uint64_t descriptors = 0, available = 0, used = 0;  // guest-physical
  bool is_ready = false;
  bool is_running = false;
  uint16_t next_available = 0, next_used = 0;
  bool operator==(const SavedQueue&) const = default;
};

// A virtio device as its transport knows it.
struct SavedTransport {
  uint32_t status = 0;
  uint32_t device_features_select = 0, driver_features_select = 0, queue_select = 0;
  uint64_t driver_features = 0;
  bool has_unknown_features = false;
  bool needs_reset = false;
  uint32_t interrupt_status = 0;
  uint32_t config_generation = 0;
  std::vector<SavedQueue> queues;
  bool operator==(const SavedTransport&) const = default;
};

struct SavedDevice {
  std::string name;  // "disk", "vsock", ...
  SavedTransport transport;
  bool operator==(const SavedDevice&) const = default;
};

struct SavedSerial {
  Bytes input;  // waiting for the guest
  bool transmitter_empty_pending = false;
  uint8_t pending = 0, interrupt_enable = 0, fifo_control = 0, line_control = 0, modem_control = 0,
          scratch = 0;
  uint16_t divisor = 0;
  bool operator==(const SavedSerial&) const = default;
};

// What an address of the guest's network stands for (net/name_table.h).
struct SavedName {
  std::string name;
  uint32_t address = 0;
  bool operator==(const SavedName&) const = default;
};

// A connection that the guest knows of (net/tcp_service.h), by its ends and where its numbers are.
struct SavedFlow {
  Bytes far_address;  // 4 or 16 bytes, in the order of the wire
  uint16_t far_port = 0, guest_port = 0;
  uint32_t sequence = 0, acknowledgement = 0;
  bool operator==(const SavedFlow&) const = default;
};

struct SavedNetwork {
  std::vector<SavedName> names;
  std::vector<SavedFlow> flows;
  bool operator==(const SavedNetwork&) const = default;
};

// A frozen layer of a disk (virtio/block/layered.h), as it has to be when it is used again.
struct SavedLayer {
  Bytes id;  // 16 bytes
  uint64_t bitmap_hash = 0;
  bool operator==(const SavedLayer&) const = default;
};

struct SavedDisk {
  std::vector<SavedLayer> layers;  // from below; none: its launcher keeps it otherwise
  bool operator==(const SavedDisk&) const = default;
};

struct SavedMachine {
  uint64_t memory = 0;                       // bytes
  Bytes cpuid;                               // kvm_cpuid_entry2, of all processors
  Bytes clock;                               // kvm_clock_data
  std::vector<Bytes> interrupt_controllers;  // kvm_irqchip: PIC master, PIC slave, IOAPIC
  std::vector<SavedVcpu> vcpus;
  SavedSerial serial;
  std::vector<SavedDevice> devices;
  std::vector<SavedDisk> disks;
  SavedNetwork network;  // empty without one
  bool operator==(const SavedMachine&) const = default;
};

FieldWriter encode(const SavedMachine& machine);
// Errors: a field that is missing or has a form that encode() never gives it.
Result<SavedMachine> decode_machine(const Fields& fields);

}  // namespace hutch::snapshot
