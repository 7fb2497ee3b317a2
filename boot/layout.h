// The guest-physical address map of the machine, on one page. No other file holds such an address.
//
//   0                     RAM; the first MiB holds what the kernel is started with:
//     0x0500                global descriptor table
//     0x6000                PVH start information
//     0x7000                boot_params, the "zero page"
//     0x9000 - 0xe000       page tables for the 64-bit entry
//     0x20000               kernel command line
//     0x30000               setup_data with the device tree
//     0x9fc00 - 0x100000    reserved; the MP table at 0xf0000
//   1 MiB                 RAM: kernel, and the initramfs as high as possible
//   end of low RAM        its last page: VM generation ID, reserved
//   0xc0000000            end of low RAM at most; the hole for devices begins
//   0xd0000000              serial, power, pvpanic, virtio-mmio devices, a page each
//   0xfec00000              IOAPIC;  0xfee00000 local APICs
//   0xfffbc000              identity map page and task state segment of KVM on Intel hosts
//   0x100000000           4 GiB: RAM that did not fit below
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "memory/address.h"

namespace hutch::boot {

constexpr uint64_t kPageSize = 4096;
constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kGiB = 1 << 30;

constexpr GuestAddress kGdt{0x500};
constexpr GuestAddress kPvhStartInfo{0x6000};
constexpr GuestAddress kPvhModule{0x6100};
constexpr GuestAddress kPvhMemoryMap{0x6200};
constexpr GuestAddress kBootParams{0x7000};
constexpr GuestAddress kPageMapLevel4{0x9000};
constexpr GuestAddress kPageDirectoryPointers{0xa000};
constexpr GuestAddress kPageDirectories{0xb000};  // four of them: 4 GiB in 2 MiB pages
constexpr GuestAddress kCommandLine{0x20000};
constexpr uint64_t kCommandLineCapacity = 2048;
constexpr GuestAddress kSetupData{0x30000};
constexpr uint64_t kSetupDataCapacity = 0x10000;
constexpr GuestAddress kLowMemoryEnd{0x9fc00};
constexpr GuestAddress kMpTable{0xf0000};
constexpr uint64_t kMpTableCapacity = 0x10000;
constexpr GuestAddress kHighMemoryStart{kMiB};

constexpr GuestAddress kHoleStart{0xc0000000};
constexpr GuestAddress kHoleEnd{0x100000000};
constexpr GuestAddress kSerialMmio{0xd0000000};
constexpr GuestAddress kPowerMmio{0xd0001000};
constexpr GuestAddress kPanicMmio{0xd0002000};
constexpr GuestAddress kVirtioMmio{0xd0010000};  // device n at + n * 4 KiB
constexpr uint64_t kMmioSlotSize = kPageSize;
constexpr GuestAddress kIoApic{0xfec00000};
constexpr GuestAddress kLocalApic{0xfee00000};
constexpr GuestAddress kIdentityMap{0xfffbc000};
constexpr GuestAddress kTaskStateSegment{0xfffbd000};

// Ports.
constexpr uint16_t kSerialPort = 0x3f8;
constexpr uint16_t kKeyboardController = 0x60;  // to 0x64: only the reset command

// Interrupt lines: pins of the IOAPIC, which are GSIs of KVM's default routing.
constexpr uint32_t kGenerationIdInterrupt = 3;
constexpr uint32_t kSerialInterrupt = 4;
// Pins 0 and 2 belong to timers, 8 to the clock that other machines have.
constexpr std::array<uint32_t, 18> kVirtioInterrupts{5,  6,  7,  9,  10, 11, 12, 13, 14,
                                                     15, 16, 17, 18, 19, 20, 21, 22, 23};

// Where `size` bytes of guest memory (at least 2 MiB, whole pages) lie: one range, or two around
// the hole.
inline std::vector<GuestRange> memory_ranges(uint64_t size) {
  if (size <= kHoleStart.value()) return {{GuestAddress(0), size}};
  return {{GuestAddress(0), kHoleStart.value()}, {kHoleEnd, size - kHoleStart.value()}};
}

// The end of RAM below the hole.
inline GuestAddress low_memory_end(uint64_t size) {
  return GuestAddress(size < kHoleStart.value() ? size : kHoleStart.value());
}

// The page of the VM generation ID: backed by memory, but not RAM for the guest.
inline GuestAddress generation_id_page(uint64_t size) {
  return GuestAddress(low_memory_end(size).value() - kPageSize);
}

}  // namespace hutch::boot
