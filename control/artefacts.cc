#include "control/artefacts.h"

#include <fmt/format.h>
#include <unistd.h>

#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <stdexcept>

namespace hutch::control {
namespace {

namespace fs = std::filesystem;

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::vector<fs::path> share_folders() {
  std::string chosen = variable("HUTCH_SHARE");
  if (!chosen.empty()) return {fs::absolute(chosen)};
  fs::path folder = fs::read_symlink("/proc/self/exe").parent_path();
  // PREFIX/libexec/hutch, PREFIX/bin, or the share folder itself.
  return {folder, folder / "share/hutch", folder.parent_path() / "share/hutch",
          folder.parent_path().parent_path() / "share/hutch"};
}

std::string find(const std::string& name) {
  std::vector<fs::path> folders = share_folders();
  folders.push_back(fs::read_symlink("/proc/self/exe").parent_path());
  std::string tried;
  for (const fs::path& folder : folders) {
    std::error_code error;
    if (fs::exists(folder / name, error)) return (folder / name).string();
    tried += (tried.empty() ? "" : ", ") + (folder / name).string();
  }
  throw std::runtime_error(fmt::format(
      "{} is missing; looked for {}; set HUTCH_SHARE to the folder that holds it, or build it "
      "with: tools/dev build",
      name, tried));
}

std::vector<uint64_t> layer_extents() {
  std::vector<uint64_t> result;
  std::string text = variable("HUTCH_LAYER_EXTENTS");
  const char* end = text.data() + text.size();
  for (const char* next = text.data(); next < end; next++) {
    uint64_t value = 0;
    std::from_chars_result read = std::from_chars(next, end, value);
    if (read.ec != std::errc() || (read.ptr < end && *read.ptr != '+' && *read.ptr != ','))
      throw std::runtime_error("HUTCH_LAYER_EXTENTS is not a list of OFFSET+SIZE; unset it");
    result.push_back(value);
    next = read.ptr;
  }
  return result;
}

// A file of the host's, seen over 9p in the emulated machine, cannot be used without a name: only
// that machine's memory will do.
std::string scratch_folder() {
  if (is_in_machine()) return ::access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/run";
  for (const char* name : {"HUTCH_SCRATCH", "TMPDIR"})
    if (std::string value = variable(name); !value.empty()) return value;
  return "/var/tmp";
}

}  // namespace

bool is_in_machine() {
  return variable("HUTCH_IN_MACHINE") == "1";
}

Artefacts find_artefacts(const std::string& image) {
  Artefacts result;
  result.kernel = find("vmlinux");
  result.initramfs = find("initramfs.cpio");
  result.image =
      image.find('/') == std::string::npos ? find(image + ".erofs") : fs::absolute(image).string();
  if (::access(result.image.c_str(), R_OK) != 0)
    throw std::runtime_error(fmt::format("the image {} cannot be read; check image", result.image));
  result.layer = find("layer.ext4");
  result.layer_extents = layer_extents();
  result.vmm = find("hutch-vmm");
  result.scratch = scratch_folder();
  return result;
}

}  // namespace hutch::control
