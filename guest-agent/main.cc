// hutch-agent: serves the host's commands (protocol/agent.h) inside a machine.
//
//   as /init of an initramfs                     the guest: mounts, dials the host, powers off when
//                                                the host is gone
//   hutch-agent --listen ADDRESS:PORT --token-file FILE
//                                                the emulated machine: serves who knows the token
//   rpc, rpc-attach, ...                         other modes, which the agent starts itself; see
//                                                guest-agent/rpc/modes.h
//   hutch-agent --descriptor NUMBER [--then-descriptor NUMBER]... [--cgroups FOLDER]
//               [--owns-system yes]              one connection on an inherited socket, and the
//                                                next ones when it is lost, without any set-up;
//                                                for tests
#include <fcntl.h>
#include <signal.h>
#include <sys/io.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/log.h"
#include "base/sys.h"
#include "guest-agent/last_words.h"
#include "guest-agent/leave.h"
#include "guest-agent/root.h"
#include "guest-agent/rpc/modes.h"
#include "guest-agent/server.h"
#include "guest-agent/system.h"

namespace hutch::agent {
namespace {

using protocol::agent::ShutdownKind;

constexpr const char* kCgroupMount = "/sys/fs/cgroup";
// How long the kernel tries to reach the host: an emulated VMM may take seconds to answer.
constexpr std::chrono::seconds kDialLimit{60};
// The same once a connection was lost: who restored the machine is there already.
constexpr std::chrono::seconds kRedialLimit{5};
constexpr const char* kUsage =
    "usage: hutch-agent --listen ADDRESS:PORT --token-file FILE\n"
    "       hutch-agent --descriptor NUMBER [--then-descriptor NUMBER]... [--cgroups FOLDER]\n"
    "                   [--owns-system yes]\n"
    "Without options it is the init process of a guest.\n";

struct Options {
  std::string listen;
  std::string token_file;
  int descriptor = -1;
  std::vector<int> then_descriptors;
  std::string cgroups;
  bool owns_system = false;
};

std::optional<int> parse_descriptor(std::string_view text) {
  int descriptor = -1;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), descriptor);
  if (error != std::errc() || end != text.data() + text.size() || descriptor < 0)
    return std::nullopt;
  return descriptor;
}

std::optional<Options> parse_options(int count, char** words) {
  Options options;
  for (int i = 1; i < count; i += 2) {
    std::string_view name = words[i];
    if (i + 1 >= count) return std::nullopt;
    std::string_view value = words[i + 1];
    if (name == "--listen") {
      options.listen = value;
    } else if (name == "--token-file") {
      options.token_file = value;
    } else if (name == "--cgroups") {
      options.cgroups = value;
    } else if (name == "--owns-system" && value == "yes") {
      options.owns_system = true;
    } else if (name == "--descriptor" || name == "--then-descriptor") {
      auto descriptor = parse_descriptor(value);
      if (!descriptor) return std::nullopt;
      if (name == "--descriptor") {
        options.descriptor = *descriptor;
      } else {
        options.then_descriptors.push_back(*descriptor);
      }
    } else {
      return std::nullopt;
    }
  }
  bool listens = !options.listen.empty() && !options.token_file.empty();
  if (listens == (options.descriptor >= 0)) return std::nullopt;
  bool is_test = !options.then_descriptors.empty() || !options.cgroups.empty();
  if (listens && (is_test || options.owns_system)) return std::nullopt;
  return options;
}

// The end of PID 1 is the end of the machine.
[[noreturn]] void end_machine(std::optional<ShutdownKind> kind) {
  leave_file_systems();
  ::reboot(kind == ShutdownKind::kReboot ? RB_AUTOBOOT : RB_POWER_OFF);
  die(fail_errno(errno, "ending the machine").value());
}

Result<std::optional<ShutdownKind>> run_guest() {
  TRY(mount_first_file_systems());
  TRY(use_kernel_log());
  Fd program = open_own_program();
  // The host answers while the file systems are mounted.
  Fd host = TRY(dial_host(kDialLimit));
  RootOptions options = TRY(enter_root());
  TRY(mount_system_folders());
  TRY(bring_loopback_up());
  // A guest without a network is better than none.
  if (Result<void> up = bring_network_up(options.ipv6); !up) log_warning("{}", up.error().text());
  TRY(protect_from_memory_killer());
  apply_settings();
  bool has_cgroups = ::access("/sys/fs/cgroup/cgroup.controllers", F_OK) == 0;
  auto server = TRY(
      Server::create({.token = "", .owns_system = true, .ipv6 = options.ipv6, .owns_files = true},
                     has_cgroups ? kCgroupMount : "", std::move(program)));
  return server->serve(std::move(host), [] { return dial_host(kRedialLimit); });
}

Result<std::optional<ShutdownKind>> run_machine(const Options& options) {
  std::string token = TRY(read_file(options.token_file, 4096));
  while (!token.empty() && token.back() == '\n') token.pop_back();
  if (token.empty()) return fail(fmt::format("{} holds no token", options.token_file));
  Fd listener = TRY(listen_on(options.listen));
  std::string ready =
      fmt::format("{}{}\n", protocol::agent::kListeningLine, TRY(port_of(listener)));
  TRY(write_all(STDOUT_FILENO, std::as_bytes(std::span(ready))));
  bool is_init = ::getpid() == 1;
  Fd clock;
  if (is_init) {
    TRY(protect_from_memory_killer());
    Result<Fd> started = start_clock_interrupts();
    if (started)
      clock = *std::move(started);
    else
      log_warning("{}", started.error().text());
  }
  bool has_cgroups = is_init && ::access("/sys/fs/cgroup/cgroup.controllers", F_OK) == 0;
  auto server = TRY(Server::create({.token = std::move(token), .owns_system = is_init},
                                   has_cgroups ? kCgroupMount : "", open_own_program()));
  return server->serve_all(std::move(listener));
}

Result<Fd> take_over(int descriptor) {
  if (::fcntl(descriptor, F_SETFD, FD_CLOEXEC) < 0)
    return fail_errno(errno, fmt::format("using descriptor {}", descriptor));
  return Fd(descriptor);
}

Result<std::optional<ShutdownKind>> run_on_descriptor(const Options& options) {
  // Like PID 1, get the orphans of one's children.
  if (::prctl(PR_SET_CHILD_SUBREAPER, 1) < 0) return fail_errno(errno, "becoming a reaper");
  Fd first = TRY(take_over(options.descriptor));
  std::deque<Fd> more;
  for (int descriptor : options.then_descriptors) more.push_back(TRY(take_over(descriptor)));
  auto server = TRY(Server::create({.token = "", .owns_system = options.owns_system},
                                   options.cgroups, open_own_program()));
  return server->serve(std::move(first), [&]() -> Result<Fd> {
    if (more.empty()) return Fd();
    Fd next = std::move(more.front());
    more.pop_front();
    return next;
  });
}

[[noreturn]] void run(int count, char** words) {
  bool is_init = ::getpid() == 1;
  set_log_program("hutch-agent");
  install_crash_handlers(is_init ? Ending::kPowerOff : Ending::kExit);
  ::signal(SIGPIPE, SIG_IGN);
  // The kernel passes words of its command line on: only our own option makes PID 1 a machine's.
  bool is_guest = is_init && (count < 2 || std::strcmp(words[1], "--listen") != 0);
  std::optional<Options> options;
  if (!is_guest) {
    options = parse_options(count, words);
    if (!options) {
      [[maybe_unused]] ssize_t written = ::write(STDERR_FILENO, kUsage, std::strlen(kUsage));
      if (is_init) die(fail("PID 1 was given options that it does not know").value());
      ::_exit(2);
    }
  }
  auto ended = is_guest                   ? run_guest()
               : options->descriptor >= 0 ? run_on_descriptor(*options)
                                          : run_machine(*options);
  if (!ended) die(ended.error());
  if (is_init) end_machine(*ended);
  ::_exit(0);
}

}  // namespace
}  // namespace hutch::agent

int main(int count, char** words) {
  // Tells the VMM, before anything else, that the kernel has come as far as here. Where nobody
  // listens on the port nothing happens.
  if (::getpid() == 1 && ::ioperm(hutch::protocol::agent::kBootMarkPort, 1, 1) == 0) {
    ::outb(hutch::protocol::agent::kInitMark, hutch::protocol::agent::kBootMarkPort);
    ::ioperm(hutch::protocol::agent::kBootMarkPort, 1, 0);
  }
  if (::getpid() != 1) {
    if (auto status = hutch::agent::rpc::run_mode(count, words)) ::_exit(*status);
  }
  hutch::agent::run(count, words);
}
