#include "broker/jail.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/log.h"
#include "base/seccomp.h"
#include "base/sys.h"
#include "broker/seccomp_broker.h"
#include "protocol/broker.h"

namespace hutch::broker {
namespace {

Result<void> write_text(const char* path, const std::string& text) {
  Fd file = TRY(open_file(path, O_WRONLY));
  return write_all(file.get(), std::as_bytes(std::span(text)));
}

// In a new user namespace: user and group are what they are outside.
Result<void> map_to_itself(uid_t user, gid_t group) {
  TRY(write_text("/proc/self/uid_map", fmt::format("{} {} 1", user, user)));
  TRY(write_text("/proc/self/setgroups", "deny"));
  return write_text("/proc/self/gid_map", fmt::format("{} {} 1", group, group));
}

// An ordinary user may make the other namespaces only in a user namespace of his own.
Result<void> enter_namespaces() {
  uid_t user = ::geteuid();
  gid_t group = ::getegid();
  if (::unshare((user == 0 ? 0 : CLONE_NEWUSER) | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS) < 0)
    return fail_errno(errno, "making namespaces", "allow user namespaces, or start it as root");
  if (user == 0) return {};
  // The files below belong to root while memory may not be dumped.
  ::prctl(PR_SET_DUMPABLE, 1);
  Result<void> mapped = map_to_itself(user, group);
  ::prctl(PR_SET_DUMPABLE, 0);
  return mapped;
}

// A file system with nothing in it, and nothing else, becomes the root.
Result<void> empty_root() {
  // Nothing of what follows is seen outside.
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0)
    return fail_errno(errno, "making the mounts private");
  // Over a folder that every system has; it is hidden in this namespace only.
  constexpr const char* kPlace = "/proc";
  constexpr unsigned long kFlags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
  if (::mount("none", kPlace, "tmpfs", kFlags, "size=4k,nr_inodes=2,mode=555") < 0 ||
      ::mount(nullptr, kPlace, nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY | kFlags, nullptr) < 0)
    return fail_errno(errno, "making an empty root");
  // The old root is put over the new one and taken off again: pivot_root(2), "pivot_root . .".
  if (::chdir(kPlace) < 0 || ::syscall(SYS_pivot_root, ".", ".") < 0 ||
      ::umount2(".", MNT_DETACH) < 0 || ::chdir("/") < 0)
    return fail_errno(errno, "changing to the empty root");
  return {};
}

// No file may be opened, made or removed, whatever root there is (Landlock, since Linux 5.13).
Result<void> deny_files() {
  landlock_ruleset_attr attributes{};
  attributes.handled_access_fs = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1;
  Fd rules(
      static_cast<int>(::syscall(SYS_landlock_create_ruleset, &attributes, sizeof attributes, 0)));
  if (!rules) return fail_errno(errno, "making Landlock's rules");
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
      ::syscall(SYS_landlock_restrict_self, rules.get(), 0) < 0)
    return fail_errno(errno, "applying Landlock's rules");
  return {};
}

Result<void> drop_capabilities() {
  // Also those that an executed file could bring back; that this may fail is for want of privilege,
  // and then there are none.
  for (unsigned long capability = 0; ::prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0;
       capability++)
    ::prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {};
  if (::syscall(SYS_capset, &header, none) < 0) return fail_errno(errno, "dropping capabilities");
  return {};
}

Result<void> set_limits() {
  // Each flow has a socket, tries some at a time while it opens, and travels as a second one.
  constexpr rlim_t kFiles = 4 * protocol::broker::kMaxFlows;
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) < 0) return fail_errno(errno, "reading a limit");
  files.rlim_max = std::min(files.rlim_max, kFiles);
  files.rlim_cur = files.rlim_max;
  rlimit none{};
  if (::setrlimit(RLIMIT_NOFILE, &files) < 0 || ::setrlimit(RLIMIT_CORE, &none) < 0 ||
      ::setrlimit(RLIMIT_NPROC, &none) < 0)
    return fail_errno(errno, "setting limits");
  return {};
}

}  // namespace

Result<void> enter_jail() {
  TRY(set_limits());
  Result<void> shut_in = enter_namespaces();
  if (shut_in) shut_in = empty_root();
  if (!shut_in) log_warning("the broker runs without an empty root: {}", shut_in.error().text());
  if (Result<void> denied = deny_files(); !denied) log_debug("{}", denied.error().text());
  TRY(drop_capabilities());
  return install_seccomp_filter("hutch-broker", kBrokerFilter);
}

}  // namespace hutch::broker
