#include "guest-agent/root.h"

#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "base/sys.h"
#include "protocol/guest_network.h"

namespace hutch::agent {
namespace {

Result<void> make_folder(const char* path, mode_t mode = 0755) {
  if (::mkdir(path, mode) < 0 && errno != EEXIST)
    return fail_errno(errno, fmt::format("making the folder {}", path));
  return {};
}

Result<void> mount_at(const char* type, const char* source, const char* target, unsigned long flags,
                      const char* data = nullptr) {
  if (::mount(source, target, type, flags, data) < 0) {
    int error_number = errno;
    if (error_number == ENOENT)
      return fail_errno(error_number, fmt::format("mounting {} ({}) at {}", source, type, target),
                        "the VMM must offer this device, and the image this folder");
    return fail_errno(error_number, fmt::format("mounting {} ({}) at {}", source, type, target));
  }
  return {};
}

Result<void> move_mount_to(const char* from, const char* to) {
  if (::mount(from, to, nullptr, MS_MOVE, nullptr) < 0)
    return fail_errno(errno, fmt::format("moving the mount {} to {}", from, to));
  return {};
}

constexpr unsigned long kDataOnly = MS_NOSUID | MS_NODEV | MS_NOEXEC;

struct SystemFolder {
  const char* type;
  const char* path;
  unsigned long flags;
  const char* data;
  bool required;  // else a kernel without this file system does without
  mode_t mode;    // of the folder, where it is missing
};
constexpr SystemFolder kSystemFolders[] = {
    {"sysfs", "/sys", kDataOnly, nullptr, true, 0555},
    {"cgroup2", "/sys/fs/cgroup", kDataOnly, "nsdelegate", false, 0},
    {"bpf", "/sys/fs/bpf", kDataOnly, "mode=700", false, 0},
    {"devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=620,ptmxmode=666", true, 0755},
    {"tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777", true, 0755},
    {"mqueue", "/dev/mqueue", kDataOnly, nullptr, false, 0755},
    {"tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=755", true, 0755},
};

constexpr std::pair<const char*, const char*> kDeviceLinks[] = {
    {"/proc/self/fd", "/dev/fd"},
    {"/proc/self/fd/0", "/dev/stdin"},
    {"/proc/self/fd/1", "/dev/stdout"},
    {"/proc/self/fd/2", "/dev/stderr"},
};

}  // namespace

RootOptions parse_command_line(std::string_view words) {
  constexpr std::string_view kImage = "hutch.root=", kLayer = "hutch.layer=";
  RootOptions options;
  while (!words.empty()) {
    size_t end = words.find_first_of(" \n");
    std::string_view word = words.substr(0, end);
    words = end == std::string_view::npos ? std::string_view() : words.substr(end + 1);
    if (word.starts_with(kImage)) options.image = word.substr(kImage.size());
    if (word == protocol::guest_network::kIpv6Word) options.ipv6 = true;
    if (word.starts_with(kLayer)) options.layer = word.substr(kLayer.size());
  }
  return options;
}

Result<void> mount_first_file_systems() {
  TRY(make_folder("/dev"));
  TRY(mount_at("devtmpfs", "devtmpfs", "/dev", MS_NOSUID | MS_NOEXEC, "mode=755"));
  TRY(make_folder("/proc", 0555));
  return mount_at("proc", "proc", "/proc", kDataOnly);
}

Result<RootOptions> enter_root() {
  RootOptions options = parse_command_line(TRY(read_file("/proc/cmdline", 65536)));
  if (options.image.empty()) {
    if (!options.layer.empty())
      return fail("hutch.layer= without hutch.root=", "name the image that the layer lies on");
    return options;
  }
  TRY(make_folder("/image"));
  TRY(make_folder("/layer"));
  TRY(make_folder("/merged"));
  TRY(mount_at("erofs", options.image.c_str(), "/image", MS_RDONLY));
  if (options.layer.empty()) {
    TRY(mount_at("tmpfs", "tmpfs", "/layer", 0, "mode=700"));
  } else {
    TRY(mount_at("ext4", options.layer.c_str(), "/layer", MS_NOATIME));
  }
  TRY(make_folder("/layer/upper"));
  TRY(make_folder("/layer/work"));
  // redirect_dir: a folder of the image can be renamed, as on an ordinary disk.
  TRY(mount_at("overlay", "overlay", "/merged", 0,
               "lowerdir=/image,upperdir=/layer/upper,workdir=/layer/work,redirect_dir=on"));
  TRY(make_folder("/merged/dev"));
  TRY(make_folder("/merged/proc", 0555));
  TRY(move_mount_to("/dev", "/merged/dev"));
  TRY(move_mount_to("/proc", "/merged/proc"));
  // An initramfs cannot be pivoted away from: the new root is moved over it.
  if (::chdir("/merged") < 0) return fail_errno(errno, "entering the new root");
  TRY(move_mount_to(".", "/"));
  if (::chroot(".") < 0 || ::chdir("/") < 0) return fail_errno(errno, "changing the root");
  return options;
}

Result<void> mount_system_folders() {
  for (const SystemFolder& folder : kSystemFolders) {
    // Folders of sysfs are there when their file system is.
    if (folder.mode != 0) TRY(make_folder(folder.path, folder.mode));
    auto mounted = mount_at(folder.type, folder.type, folder.path, folder.flags, folder.data);
    bool is_absent =
        !mounted && (mounted.error().number == ENODEV || mounted.error().number == ENOENT);
    if (!mounted && (folder.required || !is_absent)) return mounted;
  }
  for (auto [target, path] : kDeviceLinks) {
    if (::symlink(target, path) < 0 && errno != EEXIST)
      return fail_errno(errno, fmt::format("making the link {}", path));
  }
  // Nobody else gives device files their rights here: user mode file systems and networks are for
  // every user.
  for (const char* device : {"/dev/fuse", "/dev/net/tun"}) {
    if (::chmod(device, 0666) < 0 && errno != ENOENT)
      return fail_errno(errno, fmt::format("opening {} to all users", device));
  }
  TRY(make_folder("/run/lock"));
  if (::chmod("/run/lock", 01777) < 0) return fail_errno(errno, "opening /run/lock to all users");
  // On the layer, so that large files there cost disk and not memory.
  constexpr mode_t kTemporary = 01777;
  struct stat status {};
  if (::stat("/tmp", &status) < 0) TRY(make_folder("/tmp"));
  if ((status.st_mode & 07777) != kTemporary && ::chmod("/tmp", kTemporary) < 0)
    return fail_errno(errno, "making /tmp writable for everybody");
  // Containers expect their mounts to see those of the host.
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_SHARED, nullptr) < 0)
    return fail_errno(errno, "sharing the mounts");
  return {};
}

}  // namespace hutch::agent
