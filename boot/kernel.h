// Loads a guest kernel into guest memory: ELF vmlinux (64-bit or PVH entry) or bzImage.
//
// Sources: the ELF-64 object file format; Linux Documentation/arch/x86/boot.rst (bzImage, 64-bit
// boot protocol); the PVH entry note XEN_ELFNOTE_PHYS32_ENTRY of Xen's boot ABI. The image may be
// hostile: every offset and size in it is checked before use, and what does not fit the window is
// refused.
#pragma once

#include <cstdint>
#include <optional>

#include "base/result.h"
#include "memory/guest_memory.h"

namespace hutch::boot {

struct LoadedKernel {
  // Physical address of the 64-bit entry point.
  GuestAddress entry;
  // Physical address of the 32-bit PVH entry point, for an ELF that has the note.
  std::optional<GuestAddress> pvh_entry;
  // Behind the last byte that the kernel needs before it manages memory itself.
  GuestAddress end;
  // An ELF whose build salt says that it takes a device tree (kernel-config/).
  bool takes_device_tree = false;
  // The setup header of a bzImage, to be passed on in boot_params; empty for an ELF.
  std::vector<std::byte> setup_header;
};

// Loads the image in `file` (a regular file) so that all of it lies inside `window`. Errors say
// what is wrong with the image and what kinds are understood.
Result<LoadedKernel> load_kernel(const GuestMemory& memory, int file, GuestRange window);

// Puts the initramfs in `file` as high as possible inside `window`, page-aligned. Returns where.
Result<GuestRange> load_initramfs(const GuestMemory& memory, int file, GuestRange window);

}  // namespace hutch::boot
