#include "guest-agent/identity.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <string_view>

#include "base/sys.h"

namespace hutch::agent {
namespace {

constexpr const char* kBootId = "/proc/sys/kernel/random/boot_id";
constexpr const char* kBootIdFile = "/run/hutch-boot-id";
constexpr size_t kMaxBootId = 256;

bool is_there(const std::string& path) {
  return ::access(path.c_str(), F_OK) == 0;
}

// A new file in the place of the old one, whatever that was: a link is not followed, a pipe that
// nobody reads holds nothing up, and no program sees half of it.
Result<void> replace_file(const std::string& path, std::string_view text) {
  constexpr mode_t kMode = 0444;
  std::string fresh = path + ".hutch";
  if (::unlink(fresh.c_str()) < 0 && errno != ENOENT)
    return fail_errno(errno, fmt::format("removing {}", fresh));
  Fd file = TRY(open_file(fresh, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, kMode));
  TRY(write_all(file.get(), std::as_bytes(std::span(text))));
  if (::fchmod(file.get(), kMode) < 0 || ::rename(fresh.c_str(), path.c_str()) < 0)
    return fail_errno(errno, fmt::format("replacing {}", path));
  return {};
}

}  // namespace

Result<void> renew_machine_id(const std::string& root, const std::string& machine_id) {
  if (is_there(root + "/etc")) TRY(replace_file(root + "/etc/machine-id", machine_id + "\n"));
  std::string transient = root + "/run/machine-id";
  return is_there(transient) ? replace_file(transient, machine_id + "\n") : Result<void>();
}

Result<void> renew_boot_id(const std::string& boot_id) {
  if (!is_there(kBootId)) return {};
  TRY(replace_file(kBootIdFile, boot_id + "\n"));
  // The one that an earlier renewal mounted; EINVAL: this is the first.
  if (::umount2(kBootId, MNT_DETACH) < 0 && errno != EINVAL)
    return fail_errno(errno, fmt::format("unmounting {}", kBootId));
  if (::mount(kBootIdFile, kBootId, nullptr, MS_BIND, nullptr) < 0)
    return fail_errno(errno, fmt::format("mounting a file over {}", kBootId));
  // Whoever is root in the guest may have mounted more there.
  if (TRY(read_file(kBootId, kMaxBootId)) != boot_id + "\n")
    return fail(fmt::format("{} does not say what was mounted over it", kBootId));
  return {};
}

Result<void> remove_host_keys(const std::string& root) {
  std::string path = root + "/etc/ssh";
  std::unique_ptr<DIR, int (*)(DIR*)> folder(::opendir(path.c_str()), ::closedir);
  if (!folder) {
    if (errno == ENOENT || errno == ENOTDIR) return {};
    return fail_errno(errno, fmt::format("reading {}", path));
  }
  while (const dirent* entry = ::readdir(folder.get())) {
    if (!std::string_view(entry->d_name).starts_with("ssh_host_")) continue;
    if (::unlinkat(::dirfd(folder.get()), entry->d_name, 0) < 0 && errno != ENOENT)
      return fail_errno(errno, fmt::format("removing {}/{}", path, entry->d_name));
  }
  return {};
}

}  // namespace hutch::agent
