#include "guest-agent/freezer.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <memory>
#include <string_view>
#include <utility>

#include "base/sys.h"

namespace hutch::agent {
namespace {

// Between two looks at groups that are stopping.
constexpr std::chrono::milliseconds kInterval{2};

// A group that goes away meanwhile has no processes.
bool is_gone(int error_number) {
  return error_number == ENOENT || error_number == ENODEV;
}

Result<std::string> read_setting(int folder, const char* name) {
  Fd file(::openat(folder, name, O_RDONLY | O_CLOEXEC));
  std::array<char, 512> buffer;
  ssize_t count = file ? ::read(file.get(), buffer.data(), buffer.size()) : -1;
  if (count < 0) return fail_errno(errno, fmt::format("reading {} of a control group", name));
  return std::string(buffer.data(), static_cast<size_t>(count));
}

Result<void> write_freeze(int folder, std::string_view value) {
  Fd file(::openat(folder, "cgroup.freeze", O_WRONLY | O_CLOEXEC));
  if (!file || ::write(file.get(), value.data(), value.size()) < 0)
    return fail_errno(errno, "writing cgroup.freeze of a control group");
  return {};
}

}  // namespace

bool Freezer::freeze(std::function<void(std::string)> done) {
  if (!mount_ || under_way_) {
    done(under_way_ ? "the processes are being stopped already"
                    : "this agent has no control groups (cgroup v2) to stop processes with");
    return false;
  }
  under_way_ = true;
  done_ = std::move(done);
  deadline_ = std::chrono::steady_clock::now() + kPatience;
  look();
  return true;
}

void Freezer::look() {
  std::string problem;
  bool have_all_stopped = true;
  auto names = groups();
  if (!names) problem = names.error().text();
  // Each time all of them: what still runs may make new ones.
  for (size_t i = 0; names && i < names->size() && problem.empty(); i++) {
    auto stopped = stop((*names)[i]);
    if (!stopped) problem = fmt::format("{}: {}", (*names)[i], stopped.error().text());
    if (stopped && !*stopped) have_all_stopped = false;
  }
  if (problem.empty() && !have_all_stopped) {
    if (std::chrono::steady_clock::now() < deadline_) {
      timer_ = loop_.after(kInterval, [this](uint32_t) { look(); });
      return;
    }
    problem = fmt::format("some process did not stop within {} s", kPatience.count());
  }
  under_way_ = false;
  if (!problem.empty()) thaw();
  answer(std::move(problem));
}

std::string Freezer::thaw() {
  timer_.reset();
  std::string problem;
  for (const std::string& name : std::exchange(ours_, {})) {
    Fd folder(::openat(mount_.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!folder && is_gone(errno)) continue;
    auto written = write_freeze(folder.get(), "0");
    if (!written && !is_gone(written.error().number))
      problem = fmt::format("{}: {}", name, written.error().text());
  }
  if (std::exchange(under_way_, false)) answer("the processes were let run before all had stopped");
  return problem;
}

void Freezer::answer(std::string problem) {
  auto done = std::exchange(done_, nullptr);
  if (done) done(std::move(problem));
}

Result<std::vector<std::string>> Freezer::groups() const {
  Fd folder(::openat(mount_.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder) return fail_errno(errno, "opening the control groups");
  std::unique_ptr<DIR, int (*)(DIR*)> stream(::fdopendir(folder.get()), ::closedir);
  if (!stream) return fail_errno(errno, "reading the control groups");
  [[maybe_unused]] int owned_by_stream = folder.release();
  std::vector<std::string> names;
  while (const dirent* entry = ::readdir(stream.get())) {
    std::string_view name = entry->d_name;
    if (entry->d_type == DT_DIR && name != "." && name != "..") names.emplace_back(name);
  }
  return names;
}

// Whether nothing runs in the group any more.
Result<bool> Freezer::stop(const std::string& name) {
  Fd folder(::openat(mount_.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder) {
    if (is_gone(errno)) return true;
    return fail_errno(errno, "opening a control group");
  }
  auto step = [&]() -> Result<bool> {
    if (!ours_.contains(name) &&
        !TRY(read_setting(folder.get(), "cgroup.freeze")).starts_with('1')) {
      TRY(write_freeze(folder.get(), "1"));
      ours_.insert(name);
    }
    std::string events = TRY(read_setting(folder.get(), "cgroup.events"));
    return ("\n" + events).find("\nfrozen 1\n") != std::string::npos;
  };
  auto stopped = step();
  if (!stopped && is_gone(stopped.error().number)) return true;
  return stopped;
}

}  // namespace hutch::agent
