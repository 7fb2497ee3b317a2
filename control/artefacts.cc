#include "control/artefacts.h"

#include <fmt/format.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <stdexcept>

#include "base/log.h"
#include "control/problem.h"

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

// A file that the configuration's key `key` names.
std::string find_chosen(const char* key, const std::string& chosen, const char* suffix) {
  if (chosen.find('/') == std::string::npos) return find(chosen + suffix);
  std::string path = fs::absolute(chosen).string();
  if (::access(path.c_str(), R_OK) != 0)
    throw std::runtime_error(
        fmt::format("{}: {} cannot be read: {}", key, path, std::strerror(errno)));
  return path;
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

void check_free_space(const std::string& folder, int64_t reserve_mb) {
  struct statvfs status {};
  if (::statvfs(folder.c_str(), &status) < 0) {
    log_error("asking for the free space of {}: {}", folder, std::strerror(errno));
    throw Problem(500, "SANDBOX_START_FAILED", "the server cannot tell how much disk it has left");
  }
  uint64_t free_mb = status.f_bavail * status.f_frsize >> 20;
  if (free_mb >= static_cast<uint64_t>(reserve_mb)) return;
  log_warning("{} has {} MiB free, less than disk_reserve_mb ({})", folder, free_mb, reserve_mb);
  throw Problem(503, "DISK_LIMIT_REACHED",
                "the server has too little disk left for another sandbox; end some");
}

Artefacts find_artefacts(const std::string& image, const std::string& layer) {
  Artefacts result;
  result.kernel = find("vmlinux");
  result.initramfs = find("initramfs.cpio");
  result.image = find_chosen("image", image, ".erofs");
  result.layer = find_chosen("layer", layer, ".ext4");
  // Said of our own template alone.
  if (result.layer == find("layer.ext4")) result.layer_extents = layer_extents();
  result.vmm = find("hutch-vmm");
  result.scratch = scratch_folder();
  return result;
}

}  // namespace hutch::control
