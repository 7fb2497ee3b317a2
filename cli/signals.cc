#include "cli/signals.h"

#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>

#include "cli/failure.h"

namespace hutch::cli {

Signals::Signals() {
  sigset_t taken;
  ::sigemptyset(&taken);
  for (int number :
       {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGPIPE, SIGWINCH, SIGCONT}) {
    struct sigaction action {};
    ::sigaction(number, nullptr, &action);
    if (action.sa_handler != SIG_IGN || number == SIGWINCH) ::sigaddset(&taken, number);
  }
  ::sigprocmask(SIG_BLOCK, &taken, nullptr);
  fd_ = Fd(::signalfd(-1, &taken, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd_) throw Failure(fail_errno(errno, "watching signals").value());
}

std::optional<int> Signals::take() {
  signalfd_siginfo info{};
  if (::read(fd_.get(), &info, sizeof info) != static_cast<ssize_t>(sizeof info))
    return std::nullopt;
  return static_cast<int>(info.ssi_signo);
}

}  // namespace hutch::cli
