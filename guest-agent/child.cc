#include "guest-agent/child.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "base/log.h"
#include "base/sys.h"
#include "guest-agent/last_words.h"

namespace hutch::agent {
namespace {

using protocol::agent::FailureStage;

constexpr int kReportDescriptor = 4;
// Above those that a child starts with.
constexpr int kFirstSpareDescriptor = 16;
// The exit status of a child that could not start: nobody looks at it, for its report says why.
constexpr int kExitUnreported = 125;

int report_descriptor = kReportDescriptor;  // in the child only

}  // namespace

Result<Pipe> make_pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) < 0) return fail_errno(errno, "creating a pipe");
  return Pipe{Fd(ends[0]), Fd(ends[1])};
}

Result<pid_t> fork_child(int cgroup) {
  if (cgroup >= 0) {
    // Straight into the group: moving a process later waits for a grace period of the kernel.
    clone_args arguments{};
    arguments.flags = CLONE_INTO_CGROUP;
    arguments.exit_signal = SIGCHLD;
    arguments.cgroup = static_cast<uint64_t>(cgroup);
    long process = ::syscall(SYS_clone3, &arguments, sizeof arguments);
    if (process >= 0) return static_cast<pid_t>(process);
    return fail_errno(errno, "starting a process in its control group");
  }
  pid_t process = ::fork();
  if (process < 0) return fail_errno(errno, "starting a process");
  return process;
}

void set_up_child(const ChildDescriptors& descriptors) {
  forget_crash_handlers();
  ::signal(SIGPIPE, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);

  // First all of them out of the way, so that moving one into place cannot overwrite another.
  report_descriptor = ::fcntl(descriptors.report, F_DUPFD_CLOEXEC, kFirstSpareDescriptor);
  if (report_descriptor < 0) ::_exit(kExitUnreported);
  int standard[3] = {descriptors.input, descriptors.output, descriptors.error};
  for (int& descriptor : standard) {
    descriptor = descriptor < 0 ? ::open("/dev/null", O_RDWR | O_CLOEXEC) : descriptor;
    descriptor = ::fcntl(descriptor, F_DUPFD_CLOEXEC, kFirstSpareDescriptor);
    if (descriptor < 0) report_failure(FailureStage::kRequest, errno);
  }
  int service = -1, program = -1;
  if (descriptors.service >= 0) {
    service = ::fcntl(descriptors.service, F_DUPFD_CLOEXEC, kFirstSpareDescriptor);
    if (service < 0) report_failure(FailureStage::kRequest, errno);
  }
  if (descriptors.program >= 0) {
    program = ::fcntl(descriptors.program, F_DUPFD_CLOEXEC, kFirstSpareDescriptor);
    if (program < 0) report_failure(FailureStage::kRequest, errno);
  }
  if (::dup3(report_descriptor, kReportDescriptor, O_CLOEXEC) < 0)
    report_failure(FailureStage::kRequest, errno);
  report_descriptor = kReportDescriptor;
  ::close(protocol::agent::kServiceDescriptor);
  ::close(kProgramDescriptor);
  if (service >= 0 && ::dup2(service, protocol::agent::kServiceDescriptor) < 0)
    report_failure(FailureStage::kRequest, errno);
  if (program >= 0 && ::dup3(program, kProgramDescriptor, O_CLOEXEC) < 0)
    report_failure(FailureStage::kRequest, errno);
  for (int i = 0; i < 3; i++) {
    if (::dup2(standard[i], i) < 0) report_failure(FailureStage::kRequest, errno);
  }
  // A child that does not exec must not hold the other children's pipes open.
  if (::close_range(kProgramDescriptor + 1, ~0U, 0) < 0)
    report_failure(FailureStage::kRequest, errno);

  if (::setsid() < 0) report_failure(FailureStage::kRequest, errno);
  if (descriptors.terminal && ::ioctl(STDOUT_FILENO, TIOCSCTTY, 0) < 0)
    report_failure(FailureStage::kRequest, errno);

  // Raising one's own score needs no privilege, and the agent's is the lowest there is; where /proc
  // is missing, so is the killer's view of it.
  Fd score(::open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC));
  if (score && ::write(score.get(), "0", 1) != 1) report_failure(FailureStage::kRequest, errno);
  score.reset();
}

void become(const Account& account) {
  if (::geteuid() != 0) {
    if (account.user != ::geteuid()) report_failure(FailureStage::kUser, EPERM);
    return;
  }
  if (::setgroups(account.groups.size(), account.groups.data()) < 0 ||
      ::setresgid(account.group, account.group, account.group) < 0 ||
      ::setresuid(account.user, account.user, account.user) < 0) {
    report_failure(FailureStage::kUser, errno);
  }
}

void report(const Report& report) {
  // Less than PIPE_BUF, so it is written whole.
  if (::write(report_descriptor, &report, sizeof report) != sizeof report) ::_exit(kExitUnreported);
}

void report_failure(FailureStage stage, int error_number, bool lacks_interpreter) {
  report({.kind = Report::Kind::kFailed,
          .stage = stage,
          .error_number = error_number,
          .lacks_interpreter = lacks_interpreter});
  ::_exit(kExitUnreported);
}

std::optional<Report> read_report(int fd, bool& ended) {
  Report report;
  ssize_t count;
  do {
    count = ::read(fd, &report, sizeof report);
  } while (count < 0 && errno == EINTR);
  ended = count == 0 || (count < 0 && errno != EAGAIN);
  if (count != sizeof report) return std::nullopt;
  return report;
}

}  // namespace hutch::agent
