#include "guest-agent/identity.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <optional>
#include <string_view>

#include "base/sys.h"

namespace hutch::agent {
namespace {

constexpr const char* kBootId = "/proc/sys/kernel/random/boot_id";
constexpr const char* kBootIdFile = "/run/hutch-boot-id";
constexpr size_t kMaxBootId = 256;
constexpr size_t kMaxHostName = 256;
constexpr size_t kMaxHosts = 1024 * 1024;

bool is_there(const std::string& path) {
  return ::access(path.c_str(), F_OK) == 0;
}

// A new file in the place of the old one, whatever that was: a link is not followed, a pipe that
// nobody reads holds nothing up, and no program sees half of it.
Result<void> replace_file(const std::string& path, std::string_view text, mode_t mode = 0444) {
  std::string fresh = path + ".hutch";
  if (::unlink(fresh.c_str()) < 0 && errno != ENOENT)
    return fail_errno(errno, fmt::format("removing {}", fresh));
  Fd file = TRY(open_file(fresh, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode));
  TRY(write_all(file.get(), std::as_bytes(std::span(text))));
  if (::fchmod(file.get(), mode) < 0 || ::rename(fresh.c_str(), path.c_str()) < 0)
    return fail_errno(errno, fmt::format("replacing {}", path));
  return {};
}

// The text of a plain file; nothing when it is anything else, or larger. Whoever is root in the
// guest may have put a pipe in its place.
std::optional<std::string> read_plain_file(const std::string& path, size_t limit) {
  Result<Fd> file = open_file(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
  struct stat status {};
  if (!file || ::fstat(file->get(), &status) < 0 || !S_ISREG(status.st_mode)) return std::nullopt;
  Result<std::string> text = read_file(fmt::format("/proc/self/fd/{}", file->get()), limit);
  if (!text) return std::nullopt;
  return *std::move(text);
}

// `hosts` (hosts(5)) with each name that is `old` as `fresh`; with a line more where there is none.
std::string with_host_name(const std::string& hosts, const std::string& old,
                           const std::string& fresh) {
  constexpr std::string_view kSpace = " \t";
  std::string result;
  bool was_found = false;
  for (size_t at = 0; at < hosts.size();) {
    const size_t line_end = std::min(hosts.find('\n', at), hosts.size());
    const size_t comment = std::min(hosts.find('#', at), line_end);
    bool is_first = true;
    while (at < comment) {
      const size_t word = std::min(hosts.find_first_not_of(kSpace, at), comment);
      const size_t end = std::min({hosts.find_first_of(kSpace, word), comment, hosts.size()});
      result.append(hosts, at, word - at);
      // The first word is the address.
      const bool is_old = !is_first && !old.empty() && hosts.compare(word, end - word, old) == 0;
      was_found = was_found || is_old;
      result.append(is_old ? fresh : hosts.substr(word, end - word));
      if (word < end) is_first = false;
      at = end;
    }
    result.append(hosts, comment, line_end - comment);
    result += '\n';
    at = line_end + 1;
  }
  return was_found ? result : result + "127.0.1.1 " + fresh + "\n";
}

}  // namespace

Result<void> rename_host(const std::string& root, const std::string& name) {
  constexpr mode_t kMode = 0644;
  if (!is_there(root + "/etc")) return {};
  std::string old = read_plain_file(root + "/etc/hostname", kMaxHostName).value_or("");
  while (!old.empty() && (old.back() == '\n' || old.back() == ' ')) old.pop_back();
  if (old == name) return {};
  TRY(replace_file(root + "/etc/hostname", name + "\n", kMode));
  const std::string path = root + "/etc/hosts";
  std::optional<std::string> hosts = read_plain_file(path, kMaxHosts);
  // What cannot be read is left alone: a name without an address is better than what is lost.
  if (!hosts && is_there(path)) return {};
  return replace_file(path, with_host_name(hosts.value_or(""), old, name), kMode);
}

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
