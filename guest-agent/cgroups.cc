#include "guest-agent/cgroups.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <span>
#include <string_view>

#include "base/log.h"
#include "base/sys.h"

namespace hutch::agent {
namespace {

// Turns every controller on that `folder` offers and `wanted` accepts, for the groups below it.
template <typename Wanted>
Result<void> enable_controllers(const std::string& folder, Wanted wanted) {
  std::string offered = TRY(read_file(folder + "/cgroup.controllers", 4096));
  std::string order;
  for (size_t at = 0; at < offered.size();) {
    size_t end = offered.find_first_of(" \n", at);
    if (end == std::string::npos) end = offered.size();
    std::string name = offered.substr(at, end - at);
    if (!name.empty() && wanted(name)) order += (order.empty() ? "+" : " +") + name;
    at = end + 1;
  }
  if (order.empty()) return {};
  Fd control = TRY(open_file(folder + "/cgroup.subtree_control", O_WRONLY));
  return write_all(control.get(), std::as_bytes(std::span(order)));
}

}  // namespace

bool Cgroup::was_out_of_memory() const {
  if (!folder_) return false;
  Fd events(::openat(folder_.get(), "memory.events", O_RDONLY | O_CLOEXEC));
  if (!events) return false;  // memory is not accounted here
  std::array<char, 512> buffer;
  ssize_t count = ::read(events.get(), buffer.data(), buffer.size());
  if (count < 0) {
    log_warning("reading memory.events of control group {}: errno {}", number_, errno);
    return false;
  }
  std::string_view text(buffer.data(), static_cast<size_t>(count));
  constexpr std::string_view kKey = "\noom_kill ";
  size_t at = text.find(kKey);
  if (at == std::string_view::npos) return false;
  uint64_t kills = 0;
  std::from_chars(text.data() + at + kKey.size(), text.data() + text.size(), kills);
  return kills > 0;
}

Result<Cgroups> Cgroups::create(const std::string& mount) {
  Cgroups groups;
  groups.path_ = mount + "/hutch";
  if (::mkdir(groups.path_.c_str(), 0755) < 0 && errno != EEXIST)
    return fail_errno(errno, fmt::format("making the control group {}", groups.path_));
  TRY(enable_controllers(mount, [](const std::string&) { return true; }));
  TRY(enable_controllers(groups.path_, [](const std::string& name) { return name == "memory"; }));
  groups.folder_ = TRY(open_file(groups.path_, O_RDONLY | O_DIRECTORY));
  return groups;
}

Result<Cgroup> Cgroups::make() {
  if (!folder_) return Cgroup();
  uint64_t number = next_++;
  std::string name = std::to_string(number);
  if (::mkdirat(folder_.get(), name.c_str(), 0755) < 0)
    return fail_errno(errno, fmt::format("making the control group {}/{}", path_, name));
  Fd group(::openat(folder_.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!group) return fail_errno(errno, fmt::format("opening the control group {}/{}", path_, name));
  return Cgroup(number, std::move(group));
}

void Cgroups::discard(Cgroup group) {
  if (group.folder() >= 0) discarded_.push_back(group.number());
}

void Cgroups::sweep() {
  std::erase_if(discarded_, [&](uint64_t number) {
    // EBUSY: something still lives there.
    return ::unlinkat(folder_.get(), std::to_string(number).c_str(), AT_REMOVEDIR) == 0 ||
           errno != EBUSY;
  });
}

}  // namespace hutch::agent
