#include "guest-agent/reaper.h"

#include <signal.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

namespace hutch::agent {

Result<std::unique_ptr<Reaper>> Reaper::create(Loop& loop, std::function<void()> after_each_round) {
  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGCHLD);
  if (::sigprocmask(SIG_BLOCK, &mask, nullptr) < 0) return fail_errno(errno, "blocking SIGCHLD");
  std::unique_ptr<Reaper> reaper(new Reaper);
  reaper->signals_ = Fd(::signalfd(-1, &mask, SFD_NONBLOCK | SFD_CLOEXEC));
  if (!reaper->signals_) return fail_errno(errno, "creating a signal descriptor");
  reaper->after_each_round_ = std::move(after_each_round);
  reaper->watch_ = TRY(loop.watch(reaper->signals_.get(), EPOLLIN,
                                  [reaper = reaper.get()](uint32_t) { reaper->reap(); }));
  return reaper;
}

void Reaper::watch(pid_t process, std::function<void(int)> on_exit) {
  watched_[process] = std::move(on_exit);
}

void Reaper::forget(pid_t process) {
  watched_.erase(process);
}

void Reaper::reap() {
  // One signal may stand for many children: the descriptor is only emptied, waitpid() counts.
  signalfd_siginfo information;
  while (::read(signals_.get(), &information, sizeof information) > 0) {
  }
  for (;;) {
    int status = 0;
    pid_t process = ::waitpid(-1, &status, WNOHANG);
    if (process < 0 && errno == EINTR) continue;
    if (process <= 0) break;
    auto found = watched_.find(process);
    if (found == watched_.end()) continue;
    std::function<void(int)> on_exit = std::move(found->second);
    watched_.erase(found);
    on_exit(status);
  }
  after_each_round_();
}

}  // namespace hutch::agent
