// tap_gateway COMMAND...: runs a command in a network namespace of its own, whose only way out is a
// tap interface with net/ behind it; every TCP connection goes to this host's 127.0.0.1. Compares
// net/ with other user-space networks in the same topology. At the end a line of figures on
// standard error.
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <optional>
#include <thread>

#include "base/loop.h"
#include "base/sys.h"
#include "net/backend.h"
#include "tests/net/direct_opener.h"
#include "tests/net/tap.h"

namespace hutch::testing {
namespace {

double seconds(const timeval& time) {
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
}

Result<int> run(char** command) {
  std::unique_ptr<Loop> loop = TRY(Loop::create());
  auto [tap_end, guest_end] = TRY(socket_pair(SOCK_SEQPACKET));
  // The namespace is a thread's: it makes the tap, and what it starts lives there.
  std::optional<Result<std::unique_ptr<Tap>>> tap;
  pid_t child = -1;
  std::thread([&] {
    tap.emplace([&]() -> Result<std::unique_ptr<Tap>> {
      TRY(enter_new_network());
      std::unique_ptr<Tap> made = TRY(Tap::create("eth0"));
      child = ::fork();
      if (child == 0) {
        // Not before the backend runs.
        char byte;
        (void)::recv(guest_end.get(), &byte, 1, 0);
        ::execvp(command[0], command);
        std::perror(command[0]);
        ::_exit(127);
      }
      return made;
    }());
  }).join();
  std::unique_ptr<Tap> device = TRY(std::move(*tap));
  DirectOpener opener(*loop);
  AllowAll all;
  NoDns dns;
  net::Backend backend(*loop, *device, {opener, all, all, dns},
                       {.syn_burst = 100'000, .syns_per_second = 100'000});
  TRY(device->attach(*loop, backend));
  (void)::send(tap_end.get(), "x", 1, 0);
  int status = 0;
  std::thread waiter([&] {
    ::waitpid(child, &status, 0);
    loop->stop();
  });
  TRY(loop->run());
  waiter.join();
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const net::Counters& counters = backend.counters();
  std::fprintf(stderr,
               "tap_gateway: user %.2f s, system %.2f s, MiB up %.0f, MiB down %.0f, flows %lu, "
               "tap reads %lu, tap writes %lu\n",
               seconds(usage.ru_utime), seconds(usage.ru_stime),
               static_cast<double>(counters.bytes_to_streams) / 1048576.0,
               static_cast<double>(counters.bytes_to_guest) / 1048576.0, counters.flows_joined,
               device->reads(), device->writes());
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

}  // namespace
}  // namespace hutch::testing

int main(int count, char** arguments) {
  if (count < 2) {
    std::fprintf(stderr, "usage: tap_gateway COMMAND [ARGUMENT...]\n");
    return 2;
  }
  const auto status = hutch::testing::run(arguments + 1);
  if (!status) std::fprintf(stderr, "tap_gateway: %s\n", status.error().text().c_str());
  return status ? *status : 1;
}
