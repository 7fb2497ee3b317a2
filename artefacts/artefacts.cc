#include "artefacts/artefacts.h"

#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <filesystem>

namespace hutch::artefacts {
namespace {

namespace fs = std::filesystem;

constexpr uint32_t kBootSeconds = 60;
constexpr uint32_t kEmulatedBootSeconds = 180;

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

Result<fs::path> program_folder() {
  return fs::path(TRY(executable_path())).parent_path();
}

Result<std::vector<fs::path>> share_folders() {
  std::error_code error;
  if (std::string chosen = variable("HUTCH_SHARE"); !chosen.empty())
    return std::vector{fs::absolute(chosen, error)};
  fs::path folder = TRY(program_folder());
  return std::vector{folder / "share/hutch", folder.parent_path() / "share/hutch",
                     folder.parent_path().parent_path() / "share/hutch"};
}

Result<std::string> find_in(const std::vector<fs::path>& folders, std::string_view name,
                            std::string_view what) {
  std::string tried;
  for (const fs::path& folder : folders) {
    fs::path path = folder / name;
    std::error_code error;
    if (fs::exists(path, error)) return path.string();
    tried += (tried.empty() ? "" : ", ") + path.string();
  }
  return fail(fmt::format("{} is missing; looked for {}", what, tried),
              "set HUTCH_SHARE to the folder that holds it, or build it with: tools/dev build");
}

Result<std::string> find_chosen(const std::string& name, std::string_view kind,
                                std::string_view suffix) {
  if (name.find('/') == std::string::npos)
    return find_in(TRY(share_folders()), name + std::string(suffix),
                   fmt::format("the {} \"{}\"", kind, name));
  if (::access(name.c_str(), R_OK) != 0)
    return fail_errno(errno, fmt::format("the {} {}", kind, name),
                      fmt::format("name one of the share folder, or a file with a slash in its "
                                  "path, such as ./my{}",
                                  suffix));
  std::error_code error;
  return fs::absolute(name, error).string();
}

}  // namespace

bool is_in_machine() {
  return variable("HUTCH_IN_MACHINE") == "1";
}

uint32_t boot_timeout_s() {
  return is_in_machine() ? kEmulatedBootSeconds : kBootSeconds;
}

Result<std::string> executable_path() {
  std::error_code error;
  fs::path path = fs::read_symlink("/proc/self/exe", error);
  if (error) return fail_errno(error.value(), "reading /proc/self/exe", "mount /proc");
  return path.string();
}

Result<std::string> find_shared(std::string_view name) {
  return find_in(TRY(share_folders()), name, name);
}

Result<std::string> find_program(std::string_view name) {
  std::vector<fs::path> folders = TRY(share_folders());
  fs::path folder = TRY(program_folder());
  folders.push_back(folder);
  folders.push_back(folder.parent_path() / "libexec/hutch");
  return find_in(folders, name, fmt::format("the program {}", name));
}

Result<std::string> find_image(const std::string& name) {
  return find_chosen(name, "image", ".erofs");
}

Result<std::string> find_layer(const std::string& name) {
  return find_chosen(name, "layer", ".ext4");
}

Result<std::vector<uint64_t>> layer_extents() {
  std::vector<uint64_t> result;
  std::string text = variable("HUTCH_LAYER_EXTENTS");
  if (text.empty()) return result;
  const char* end = text.data() + text.size();
  for (const char* next = text.data();;) {
    uint64_t value = 0;
    std::from_chars_result read = std::from_chars(next, end, value);
    if (read.ec != std::errc()) break;
    result.push_back(value);
    bool is_size = result.size() % 2 == 0;
    if (is_size && read.ptr == end) return result;
    if (read.ptr == end || *read.ptr != (is_size ? ',' : '+')) break;
    next = read.ptr + 1;
  }
  return fail("HUTCH_LAYER_EXTENTS is not a list of OFFSET+SIZE", "unset HUTCH_LAYER_EXTENTS");
}

std::string scratch_folder() {
  if (is_in_machine()) return ::access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/run";
  for (const char* name : {"HUTCH_SCRATCH", "TMPDIR"})
    if (std::string value = variable(name); !value.empty()) return value;
  return "/var/tmp";
}

Result<Parts> find_parts(const std::string& image, const std::string& layer) {
  Parts parts;
  parts.kernel = TRY(find_shared(kKernelFile));
  parts.initramfs = TRY(find_shared(kInitramfsFile));
  parts.image = TRY(find_image(image));
  parts.layer = TRY(find_layer(layer));
  parts.vmm = TRY(find_program(kVmmProgram));
  parts.broker = TRY(find_program(kBrokerProgram));
  parts.scratch = scratch_folder();
  return parts;
}

}  // namespace hutch::artefacts
