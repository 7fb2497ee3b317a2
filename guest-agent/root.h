// The root file system of the guest: a read-only image with a writable layer over it.
//
// The kernel starts the agent in the initramfs. Words on the kernel's command line say what to
// mount: `hutch.root=DEVICE` is an EROFS image, `hutch.layer=DEVICE` an ext4 file system whose
// folders `upper` and `work` overlayfs stacks over it; without a layer a tmpfs takes the writes and
// forgets them. Without an image the agent stays in the initramfs.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace hutch::agent {

// What the kernel command line asks for.
struct RootOptions {
  std::string image;  // block device, empty: none
  std::string layer;  // block device, empty: a tmpfs
  bool ipv6 = false;  // the network device gets an address of it
};
RootOptions parse_command_line(std::string_view words);

// /proc and /dev, which everything else needs. PID 1 in the initramfs only.
Result<void> mount_first_file_systems();
// Reads /proc/cmdline, which it returns, makes the root file system and enters it. After
// mount_first_file_systems().
Result<RootOptions> enter_root();
// /sys, /dev/pts, /run and the other file systems of a running system, /tmp, and the links in /dev.
Result<void> mount_system_folders();

}  // namespace hutch::agent
