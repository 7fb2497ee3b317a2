#include "cli/child.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "base/fd.h"
#include "base/sys.h"
#include "cli/failure.h"

namespace hutch::cli {
namespace {
constexpr size_t kMaxOutput = 64 * 1024;
}

ChildResult run_child(const std::vector<std::string>& arguments, int timeout_ms) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) < 0) throw Failure(fail_errno(errno, "making a pipe").value());
  Fd ours(ends[0]), theirs(ends[1]);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_adddup2(&actions, theirs.get(), STDOUT_FILENO);
  posix_spawnattr_t attributes;
  ::posix_spawnattr_init(&attributes);
  sigset_t none, all;
  ::sigemptyset(&none);
  ::sigfillset(&all);
  ::posix_spawnattr_setsigmask(&attributes, &none);
  ::posix_spawnattr_setsigdefault(&attributes, &all);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  std::vector<char*> pointers;
  for (const std::string& argument : arguments)
    pointers.push_back(const_cast<char*>(argument.c_str()));
  pointers.push_back(nullptr);
  pid_t id = 0;
  int error =
      ::posix_spawn(&id, arguments.at(0).c_str(), &actions, &attributes, pointers.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  ::posix_spawnattr_destroy(&attributes);
  if (error != 0) throw Failure(fail_errno(error, fmt::format("running {}", arguments[0])).value());
  theirs.reset();

  ChildResult result;
  uint64_t end = monotonic_ns() + static_cast<uint64_t>(timeout_ms) * 1'000'000;
  bool timed_out = false;
  for (;;) {
    uint64_t now = monotonic_ns();
    pollfd poll{.fd = ours.get(), .events = POLLIN, .revents = 0};
    int ready = now < end ? ::poll(&poll, 1, static_cast<int>((end - now) / 1'000'000 + 1)) : 0;
    if (ready < 0 && errno == EINTR) continue;
    timed_out = ready == 0;
    if (timed_out) break;
    std::array<char, 4096> buffer;
    ssize_t count = ::read(ours.get(), buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    if (result.output.size() < kMaxOutput)
      result.output.append(buffer.data(), static_cast<size_t>(count));
  }
  if (timed_out) ::kill(id, SIGKILL);
  int status = 0;
  while (::waitpid(id, &status, 0) < 0 && errno == EINTR) {
  }
  if (timed_out)
    throw Failure("timeout", fmt::format("{} did not end within {} ms", arguments[0], timeout_ms));
  result.exit_code = WIFSIGNALED(status) ? kExitSignal + WTERMSIG(status) : WEXITSTATUS(status);
  return result;
}

}  // namespace hutch::cli
