// hutch-broker: opens the connections of one sandbox, for the launcher at the other end of its
// control socket (protocol/broker.h).
//
//   hutch-broker --control-fd N   serve on inherited descriptor N
//   hutch-broker --version
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cstdlib>
#include <optional>

#include "base/log.h"
#include "base/sys.h"
#include "broker/broker.h"
#include "broker/jail.h"

namespace hutch::broker {
namespace {

namespace wire = protocol::broker;

Result<policy::Policy> read_policy(const wire::Policy& given) {
  if (given.allows_all) return policy::Policy::all();
  return policy::Policy::parse(given.patterns);
}

// The launcher's first message, waited for.
Result<wire::Configure> receive_configuration(const Fd& control) {
  ReceivedMessage message = TRY(receive_message(control.get(), wire::kMaxMessage));
  if (message.bytes.empty()) return fail("the launcher has gone");
  return wire::decode_configure(message.bytes, std::move(message.fds));
}

// The next policy, or nothing when the launcher has gone.
Result<std::optional<policy::Policy>> receive_policy(const Fd& control) {
  ReceivedMessage message = TRY(receive_message(control.get(), wire::kMaxMessage));
  if (message.bytes.empty()) return std::nullopt;
  return std::optional(TRY(read_policy(TRY(wire::decode<wire::Policy>(message.bytes)))));
}

Result<void> serve(Fd control) {
  wire::Configure configuration = TRY(receive_configuration(control));
  policy::Policy policy = TRY(read_policy(configuration.policy));
  Floor floor = TRY(Floor::create(configuration.opened));
  std::unique_ptr<Loop> loop = TRY(Loop::create());
  std::unique_ptr<Resolver> resolver =
      TRY(make_dns_resolver(*loop, configuration.servers, configuration.ipv6));
  std::optional<event_log::EventLog> log;
  if (configuration.log)
    log = TRY(event_log::EventLog::open(std::move(configuration.log), configuration.log_limit));
  Result<void> outcome;
  auto stop = [&](Result<void> why) {
    outcome = std::move(why);
    loop->stop();
  };
  Broker broker(*loop, std::move(configuration.vmm), std::move(policy), floor, *resolver,
                log ? &*log : nullptr, [&](const std::string& reason) { stop(fail(reason)); });
  TRY(broker.start());
  Watch watch = TRY(loop->watch(control.get(), EPOLLIN, [&](uint32_t) {
    Result<std::optional<policy::Policy>> next = receive_policy(control);
    // A policy that cannot be read is none: nothing goes on under the old one.
    if (!next) return stop(tl::unexpected(std::move(next).error()));
    if (!*next) return stop({});
    broker.set_policy(**std::move(next));
  }));
  // Nothing has come from the guest yet, and all files are open.
  TRY_CONTEXT("the broker's jail", enter_jail());
  TRY(loop->run());
  return outcome;
}

int run(int count, char** arguments) {
  set_log_program("hutch-broker");
  // What passes through here must not end in a core file, and a closed stream is no signal.
  ::prctl(PR_SET_DUMPABLE, 0);
  ::signal(SIGPIPE, SIG_IGN);
  std::string option = count > 1 ? arguments[1] : "";
  if (option == "--version" && count == 2) {
    constexpr std::string_view kVersion = "hutch-broker " HUTCH_VERSION "\n";
    return write_all(STDOUT_FILENO, std::as_bytes(std::span(kVersion))) ? 0 : 1;
  }
  char* end = nullptr;
  long number = option == "--control-fd" && count == 3 ? std::strtol(arguments[2], &end, 10) : -1;
  if (end == nullptr || *end != '\0' || number < 3 || number > 1023) {
    log_error("usage: hutch-broker --control-fd N | --version; hutch starts it for you");
    return 2;
  }
  Result<void> served = serve(Fd(static_cast<int>(number)));
  if (served) return 0;
  // When the VMM goes, its machine has ended: nothing to speak of.
  log_debug("{}", served.error().text());
  return 1;
}

}  // namespace
}  // namespace hutch::broker

int main(int count, char** arguments) {
  return hutch::broker::run(count, arguments);
}
