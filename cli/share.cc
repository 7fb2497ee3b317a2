#include "cli/share.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "cli/failure.h"

namespace hutch::cli {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> share_folders() {
  const char* chosen = std::getenv("HUTCH_SHARE");
  if (chosen != nullptr && *chosen != '\0') return {fs::absolute(chosen).string()};
  fs::path folder = fs::path(executable_path()).parent_path();
  return {(folder / "share/hutch").string(), (folder.parent_path() / "share/hutch").string()};
}

std::string find_in(const std::vector<std::string>& folders, const std::string& name,
                    const std::string& what) {
  std::string tried;
  for (const std::string& folder : folders) {
    fs::path path = fs::path(folder) / name;
    std::error_code error;
    if (fs::exists(path, error)) return path.string();
    tried += (tried.empty() ? "" : ", ") + path.string();
  }
  throw Failure("not_found", fmt::format("{} is missing; looked for {}", what, tried),
                "set HUTCH_SHARE to the folder that holds it, or build it with: tools/dev build");
}

}  // namespace

std::string executable_path() {
  std::error_code error;
  fs::path path = fs::read_symlink("/proc/self/exe", error);
  if (error) throw Failure("host", "reading /proc/self/exe: " + error.message(), "mount /proc");
  return path.string();
}

std::string find_shared(const std::string& name) {
  return find_in(share_folders(), name, name);
}

std::string find_program(const std::string& name) {
  std::vector<std::string> folders = share_folders();
  fs::path folder = fs::path(executable_path()).parent_path();
  folders.push_back(folder.string());
  folders.push_back((folder.parent_path() / "libexec/hutch").string());
  return find_in(folders, name, "the program " + name);
}

std::string find_image(const std::string& name) {
  if (name.find('/') == std::string::npos)
    return find_in(share_folders(), name + ".erofs", fmt::format("the image \"{}\"", name));
  std::error_code error;
  if (fs::exists(name, error)) return fs::absolute(name).string();
  throw Failure("not_found", fmt::format("there is no image {}", name),
                "name one of the share folder, such as --image core, or an EROFS file");
}

}  // namespace hutch::cli
