// What machines are made of, and where it lies: kernel, initramfs, images, the VMM.
//
// With HUTCH_SHARE set: in that folder. Else in share/hutch beside the running executable, beside
// its folder (PREFIX/bin/hutch, PREFIX/share/hutch) or one above
// (PREFIX/libexec/hutch/hutch-serve). Programs are also looked for beside the executable and in
// libexec/hutch.
//
// What the functions here read of the environment is the user's own. An Error of a file that is
// missing says where it was looked for.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace hutch::artefacts {

inline constexpr const char* kKernelFile = "vmlinux";
inline constexpr const char* kInitramfsFile = "initramfs.cpio";
inline constexpr const char* kLayerFile = "layer.ext4";  // the template of the writable layer
inline constexpr const char* kMachineKernelFile = "machine/vmlinuz";
inline constexpr const char* kMachineInitrdFile = "machine/initrd";
inline constexpr const char* kVmmProgram = "hutch-vmm";
inline constexpr const char* kBrokerProgram = "hutch-broker";
inline constexpr const char* kServeProgram = "hutch-serve";
inline constexpr const char* kAgentProgram = "hutch-agent";

// What our guest kernel is told when nobody watches its console, and where the agent finds the
// image and the layer, as the first two disks; the agent reads the words that begin with `hutch.`.
inline constexpr const char* kKernelWords =
    "quiet loglevel=4 panic=-1 earlycon=uart8250,io,0x3f8 keep_bootcon 8250.nr_uarts=0 "
    "console=ttynull tsc=reliable swiotlb=noforce initcall_blacklist=slab_sysfs_init";
inline constexpr const char* kRootWords = "hutch.root=/dev/vda hutch.layer=/dev/vdb";

// We run inside the emulated machine (HUTCH_IN_MACHINE=1).
bool is_in_machine();
// How long a guest may take until its agent answers, in seconds, when nothing else is asked for.
uint32_t boot_timeout_s();

// The path of the running executable, without links.
Result<std::string> executable_path();
// The absolute path of a file of the share folder, or of a program.
Result<std::string> find_shared(std::string_view name);
Result<std::string> find_program(std::string_view name);
// An image of the share folder (NAME.erofs), or with a slash in it the absolute path of a file that
// can be read. The same for a layer (NAME.ext4).
Result<std::string> find_image(const std::string& name);
Result<std::string> find_layer(const std::string& name);

// Where the share folder's own base of the layer has data, pairs of offset and size in bytes, for
// who copies it (other machine monitors need a copy) when its file system cannot tell
// (HUTCH_LAYER_EXTENTS: OFFSET+SIZE with commas between); empty when it can.
Result<std::vector<uint64_t>> layer_extents();
// The folder for the private layers of disks: HUTCH_SCRATCH, TMPDIR or /var/tmp. In the emulated
// machine only its memory will do: a file of the host's, seen over 9p, cannot be used without a
// name.
std::string scratch_folder();

// All that a sandbox is made of.
struct Parts {
  std::string kernel;
  std::string initramfs;
  std::string image;  // EROFS, the first disk
  std::string layer;  // base of the writable layer, ext4, the second disk; all share it
  std::string vmm;
  std::string broker;
  std::string scratch;  // folder for what each writes over it
};

// `image` and `layer` as find_image and find_layer take them.
Result<Parts> find_parts(const std::string& image, const std::string& layer);

}  // namespace hutch::artefacts
