#include "lib/spawn.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <vector>

#include "base/sys.h"

namespace hutch::lib {
namespace {

constexpr int kControl = 3;
constexpr size_t kStackSize = 64 * 1024;

// What the child reads; it shares the parent's memory until it runs the program.
struct Plan {
  const char* path;
  const char* name;
  int null, log, control;
  pid_t parent;
  bool end_with_thread;
  int error = 0;  // errno of what failed in the child
};

int report(Plan& plan) {
  plan.error = errno;
  return 127;
}

// Runs in the child, on a stack of its own, while the parent is held. Only plain system calls.
int run_child(void* argument) {
  Plan& plan = *static_cast<Plan*>(argument);
  // Handlers are code of the launcher and must not run here; exec keeps ignored signals ignored.
  for (int number = 1; number < NSIG; number++) {
    struct sigaction action {};
    action.sa_handler = SIG_DFL;
    ::sigaction(number, &action, nullptr);
  }
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  if (::setsid() < 0) return report(plan);
  if (plan.end_with_thread) {
    if (::prctl(PR_SET_PDEATHSIG, SIGKILL) < 0) return report(plan);
    if (::getppid() != plan.parent) return report(plan);  // it has died before the line above
  }
  if (::dup2(plan.null, STDIN_FILENO) < 0 || ::dup2(plan.null, STDOUT_FILENO) < 0 ||
      ::dup2(plan.log, STDERR_FILENO) < 0 || ::dup2(plan.control, kControl) < 0)
    return report(plan);
  if (::syscall(SYS_close_range, kControl + 1, ~0u, 0) < 0) return report(plan);
  std::array<const char*, 4> arguments{plan.name, "--control-fd", "3", nullptr};
  const char* environment = nullptr;
  ::execve(plan.path, const_cast<char* const*>(arguments.data()),
           const_cast<char* const*>(&environment));
  return report(plan);
}

// A duplicate above the descriptors that the child places.
Result<Fd> above_standard(int fd) {
  Fd copy(::fcntl(fd, F_DUPFD_CLOEXEC, kControl + 1));
  if (!copy) return fail_errno(errno, "duplicating a descriptor");
  return copy;
}

}  // namespace

Result<Child> start_child(const ChildOptions& options) {
  Fd opened_null = TRY(open_file("/dev/null", O_RDWR));
  Fd null = TRY(above_standard(opened_null.get()));
  Fd control = TRY(above_standard(options.control));
  Fd log = TRY(above_standard(options.log >= 0 ? options.log : null.get()));
  std::string name = options.path.substr(options.path.rfind('/') + 1);
  Plan plan{options.path.c_str(), name.c_str(),           null.get(), log.get(), control.get(),
            ::getpid(),           options.end_with_thread};

  sigset_t all, before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  std::vector<std::byte> stack(kStackSize);
  // The top of the stack, aligned to 16 bytes.
  auto top = (reinterpret_cast<uintptr_t>(stack.data()) + stack.size()) & ~uintptr_t{15};
  int process = -1;
  int id = ::clone(run_child, reinterpret_cast<void*>(top),
                   CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD, &plan, &process);
  int clone_error = errno;
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (id < 0) return fail_errno(clone_error, "creating a process");

  Child child{id, Fd(process)};
  if (plan.error != 0) {
    siginfo_t ignored;
    ::waitid(P_PIDFD, static_cast<id_t>(process), &ignored, WEXITED);
    return fail_errno(plan.error, fmt::format("running {}", options.path),
                      plan.error == ENOENT
                          ? fmt::format("install {} beside the program that starts it", name)
                          : "");
  }
  return child;
}

void kill_child(const Child& child) {
  ::syscall(SYS_pidfd_send_signal, child.process.get(), SIGKILL, nullptr, 0);
  siginfo_t ignored;
  while (::waitid(P_PIDFD, static_cast<id_t>(child.process.get()), &ignored, WEXITED) < 0 &&
         errno == EINTR) {
  }
}

}  // namespace hutch::lib
