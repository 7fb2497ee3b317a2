#include "guest-agent/last_words.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/reboot.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/sys.h"

namespace hutch::agent {
namespace {

Ending ending_ = Ending::kExit;
int kernel_log_ = -1;  // kept for the life of the process: a signal handler writes to it

constexpr std::array kCrashSignals = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS};
// The kernel takes records of a little less than 1 KiB from /dev/kmsg and refuses longer ones.
constexpr size_t kLongestRecord = 900;

// Collects a line without allocating: usable in a signal handler.
class Line {
 public:
  Line& text(const char* words) {
    size_t count = std::min(std::strlen(words), kLongestRecord - size_);
    std::memcpy(bytes_ + size_, words, count);
    size_ += count;
    return *this;
  }
  Line& number(uint64_t value, unsigned base) {
    char digits[21];
    char* first = digits + sizeof digits - 1;
    *first = 0;
    do {
      *--first = "0123456789abcdef"[value % base];
      value /= base;
    } while (value != 0);
    return text(first);
  }
  // Level 2 (critical) is shown by consoles that were asked to be quiet.
  void write_out() {
    bool to_kernel = kernel_log_ >= 0;
    int fd = to_kernel ? kernel_log_ : STDERR_FILENO;
    const char* first = to_kernel ? bytes_ : bytes_ + 3;
    bytes_[size_] = '\n';
    // Nothing can be done about a console that takes no line: the machine ends all the same.
    [[maybe_unused]] ssize_t written =
        ::write(fd, first, static_cast<size_t>(bytes_ + size_ + 1 - first));
  }

 private:
  char bytes_[kLongestRecord + 1] = {'<', '2', '>'};
  size_t size_ = 3;
};

[[noreturn]] void end() {
  if (ending_ == Ending::kPowerOff) {
    ::sync();
    ::reboot(RB_POWER_OFF);
  }
  ::_exit(1);
}

void on_crash(int number, siginfo_t* info, void*) {
  Line line;
  line.text("hutch-agent: fatal: crashed with signal ").number(static_cast<uint64_t>(number), 10);
  if (info->si_code <= 0 && number != SIGABRT) {
    line.text(" sent by process ").number(static_cast<uint64_t>(info->si_pid), 10);
  } else if (number != SIGABRT) {
    line.text(" at address 0x").number(reinterpret_cast<uint64_t>(info->si_addr), 16);
  }
  line.write_out();
  end();
}

}  // namespace

Result<void> use_kernel_log() {
  Fd log = TRY(open_file("/dev/kmsg", O_WRONLY));
  Fd null = TRY(open_file("/dev/null", O_RDWR));
  // A kernel without a console opens none of the three: these two may lie in their places.
  log = TRY(log.duplicate());
  null = TRY(null.duplicate());
  if (::dup2(null.get(), STDIN_FILENO) < 0 || ::dup2(null.get(), STDOUT_FILENO) < 0 ||
      ::dup2(log.get(), STDERR_FILENO) < 0)
    return fail_errno(errno, "sending standard error to the kernel log");
  kernel_log_ = log.release();
  return {};
}

void install_crash_handlers(Ending ending) {
  ending_ = ending;
  // A stack of its own, for the crash may be an overflow of the ordinary one.
  static std::array<std::byte, 16384> stack;
  stack_t alternate{};
  alternate.ss_sp = stack.data();
  alternate.ss_size = stack.size();
  ::sigaltstack(&alternate, nullptr);
  struct sigaction action {};
  action.sa_sigaction = on_crash;
  action.sa_flags = static_cast<int>(SA_SIGINFO | SA_ONSTACK | SA_RESETHAND);
  for (int number : kCrashSignals) ::sigaction(number, &action, nullptr);
}

void forget_crash_handlers() {
  for (int number : kCrashSignals) ::signal(number, SIG_DFL);
}

void die(const Error& error) {
  Line().text("hutch-agent: fatal: ").text(error.text().c_str()).write_out();
  end();
}

}  // namespace hutch::agent
