// Where the things lie that a machine is made of: kernel, initramfs, images, the VMM.
//
// With HUTCH_SHARE set: in that folder. Else in share/hutch beside the running executable, then in
// share/hutch beside its folder (PREFIX/bin/hutch, PREFIX/share/hutch). The programs hutch-vmm,
// hutch-serve and hutch-agent are also looked for beside the executable and in libexec/hutch.
#pragma once

#include <string>
#include <vector>

namespace hutch::cli {

constexpr const char* kKernelFile = "vmlinux";
constexpr const char* kInitramfsFile = "initramfs.cpio";
constexpr const char* kLayerFile = "layer.ext4";
constexpr const char* kMachineKernelFile = "machine/vmlinuz";
constexpr const char* kMachineInitrdFile = "machine/initrd";
constexpr const char* kVmmProgram = "hutch-vmm";
constexpr const char* kServeProgram = "hutch-serve";
constexpr const char* kAgentProgram = "hutch-agent";

// The path of the running executable.
std::string executable_path();
// The path of a file of the share folder or a program, absolute; throws a Failure that says where
// it was looked for.
std::string find_shared(const std::string& name);
std::string find_program(const std::string& name);
// An image by name (share folder, NAME.erofs) or, with a slash in it, by path.
std::string find_image(const std::string& name);

}  // namespace hutch::cli
