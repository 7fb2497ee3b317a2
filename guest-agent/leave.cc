#include "guest-agent/leave.h"

#include <signal.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>

#include "base/sys.h"

namespace hutch::agent {
namespace {

constexpr size_t kMaxMountinfo = 4 << 20;
constexpr uint64_t kReapTime = 2'000'000'000;
constexpr timespec kReapInterval{.tv_sec = 0, .tv_nsec = 5'000'000};

// The kernel writes spaces and other separators as backslash and three octal digits.
std::string unescaped(std::string_view text) {
  std::string result;
  for (size_t i = 0; i < text.size(); i++) {
    auto digit = [&](size_t at) { return text[at] >= '0' && text[at] <= '7'; };
    if (text[i] == '\\' && i + 3 < text.size() && digit(i + 1) && digit(i + 2) && digit(i + 3)) {
      result += static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 +
                                  (text[i + 3] - '0'));
      i += 3;
    } else {
      result += text[i];
    }
  }
  return result;
}

// A process that was killed holds its files until it is gone.
void reap_everybody() {
  uint64_t end = monotonic_ns() + kReapTime;
  for (;;) {
    pid_t id = ::waitpid(-1, nullptr, WNOHANG);
    if (id < 0 || (id == 0 && monotonic_ns() >= end)) return;
    if (id == 0) ::nanosleep(&kReapInterval, nullptr);
  }
}

}  // namespace

std::vector<std::string> mount_points(std::string_view mountinfo) {
  std::vector<std::string> result;
  while (!mountinfo.empty()) {
    size_t end = std::min(mountinfo.find('\n'), mountinfo.size());
    std::string_view line = mountinfo.substr(0, end);
    mountinfo.remove_prefix(std::min(end + 1, mountinfo.size()));
    // Fields: id, parent, device, root, mount point, ...
    for (int field = 0; field < 4; field++) {
      size_t space = line.find(' ');
      line.remove_prefix(space == std::string_view::npos ? line.size() : space + 1);
    }
    std::string_view point = line.substr(0, line.find(' '));
    if (!point.empty()) result.push_back(unescaped(point));
  }
  std::reverse(result.begin(), result.end());
  return result;
}

void leave_file_systems() {
  ::kill(-1, SIGKILL);
  reap_everybody();
  ::sync();
  Result<std::string> mountinfo = read_file("/proc/self/mountinfo", kMaxMountinfo);
  if (!mountinfo) return;
  for (const std::string& point : mount_points(*mountinfo))
    if (::umount2(point.c_str(), 0) < 0)
      ::mount(nullptr, point.c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr);
  ::sync();
}

}  // namespace hutch::agent
