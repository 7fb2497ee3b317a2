// tap_gateway [OPTION...] [COMMAND...]: a network namespace whose only way out is a tap interface
// with net/ behind it. For benchmarks and tests of the network without a machine.
//
//   --broker PATH         connections are made by this hutch-broker, names and policy hold, as in
//                         the product. Without: every TCP connection goes to this host's 127.0.0.1
//   --allow PATTERN       a rule of the policy (policy/policy.h), or `all`; repeatable
//   --open-block CIDR     addresses below the floor that may be reached; repeatable
//   --dns SERVER          asked by the broker; repeatable. Without: the host's
//   --ipv6                version 6, too
//   --log FILE            the broker's decision log
//   --syn-rate N          SYNs that the guest may send a second; without: the product's, and many
//                         without --broker
//   --tap-namespace PATH  an existing network namespace for the tap; without: a new one
//   --tap-name NAME       of the interface; eth0
//   --control-fd N        commands are read from there
//
// With a COMMAND it runs that in the tap's namespace, ends as it does, and writes a line of figures
// to standard error. Without, it serves until the commands end (--control-fd; standard input) or
// SIGTERM comes, and says when it is ready: "ready broker PID".
//
// The host's side, the broker's sockets too, stays in the caller's network namespace.
//
// Commands, one a line, each with one line of answer on standard output:
//   policy PATTERN...     the policy from now on; `policy` alone allows nothing   "policy set"
//   counters              one JSON object
// "error: ..." where something is wrong with the command.
#include <fcntl.h>
#include <getopt.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <iterator>
#include <optional>
#include <sstream>
#include <thread>

#include "base/loop.h"
#include "base/sys.h"
#include "lib/broker_process.h"
#include "net/backend.h"
#include "net/names.h"
#include "tests/net/direct_opener.h"
#include "tests/net/tap.h"
#include "vmm/broker_client.h"

namespace hutch::testing {
namespace {

using protocol::broker::Policy;

constexpr uint64_t kManySyns = 100'000;

struct Options {
  std::string broker;
  std::vector<std::string> allowed;
  std::vector<std::string> opened;
  std::vector<std::string> servers;
  bool ipv6 = false;
  std::string log;
  uint64_t syn_rate = 0;  // 0: not said
  std::string tap_namespace;
  std::string tap_name = "eth0";
  int control = -1;
  char** command = nullptr;  // null: none
};

double seconds(const timeval& time) {
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
}

Policy policy_of(std::vector<std::string> patterns) {
  if (patterns == std::vector<std::string>{"all"}) return {.allows_all = true, .patterns = {}};
  return {.allows_all = false, .patterns = std::move(patterns)};
}

Result<policy::Policy> read_policy(const Policy& given) {
  if (given.allows_all) return policy::Policy::all();
  return policy::Policy::parse(given.patterns);
}

// Whoever decides and connects.
class FarSide {
 public:
  virtual ~FarSide() = default;
  virtual net::Backend::Deciders deciders() = 0;
  virtual Result<void> set_policy(const Policy& policy, net::Backend& backend) = 0;
  virtual const net::Dns::Counters* dns() const { return nullptr; }
  virtual pid_t broker() const { return 0; }
};

class DirectSide final : public FarSide {
 public:
  explicit DirectSide(Loop& loop) : opener_(loop) {}
  net::Backend::Deciders deciders() override { return {opener_, all_, all_, dns_}; }
  Result<void> set_policy(const Policy&, net::Backend&) override {
    return fail("there is no policy without --broker");
  }

 private:
  DirectOpener opener_;
  AllowAll all_;
  NoDns dns_;
};

// As lib/vm.cc starts a broker and vmm/guest_network.cc asks it.
class BrokeredSide final : public FarSide {
 public:
  static Result<std::unique_ptr<FarSide>> start(Loop& loop, const Options& options) {
    Policy given = policy_of(options.allowed);
    policy::Policy policy = TRY(read_policy(given));
    lib::NetworkOptions network{.policy = std::move(given),
                                .opened = options.opened,
                                .ipv6 = options.ipv6,
                                .servers = options.servers,
                                .log = Fd(),
                                .broker_path = options.broker};
    if (!options.log.empty())
      network.log = TRY(open_file(options.log, O_RDWR | O_APPEND | O_CREAT, 0600));
    auto [ours, theirs] = TRY(socket_pair(SOCK_SEQPACKET));
    TRY(set_nonblocking(ours.get()));
    auto process =
        TRY(lib::BrokerProcess::start(std::move(network), std::move(theirs), STDERR_FILENO, true));
    auto side = std::make_unique<BrokeredSide>(loop, std::move(policy), options.ipv6,
                                               std::move(process), std::move(ours));
    TRY(side->client_.start());
    return side;
  }

  BrokeredSide(Loop& loop, policy::Policy policy, bool ipv6,
               std::unique_ptr<lib::BrokerProcess> process, Fd broker)
      : process_(std::move(process)),
        names_(std::move(policy), {}, ipv6),
        client_(loop, std::move(broker)) {}

  net::Backend::Deciders deciders() override { return {client_, names_, names_, names_}; }
  Result<void> set_policy(const Policy& given, net::Backend& backend) override {
    names_.set_policy(TRY(read_policy(given)));
    backend.close_where([&](const net::FlowTarget& target) { return !names_.allows(target); });
    return process_->set_policy(given);
  }
  const net::Dns::Counters* dns() const override { return &names_.dns_counters(); }
  pid_t broker() const override { return process_->process_id(); }

 private:
  std::unique_ptr<lib::BrokerProcess> process_;
  net::Names names_;
  vmm::BrokerClient client_;
};

std::string counters_json(const net::Backend& backend, const FarSide& far_side, const Tap& tap) {
  const net::Counters& counters = backend.counters();
  std::string text = fmt::format(
      "{{\"frames_in\":{},\"frames_out\":{},\"flows\":{},\"flows_asked\":{},\"flows_joined\":{},"
      "\"bytes_to_streams\":{},\"bytes_to_guest\":{},\"tap_reads\":{},\"tap_writes\":{},"
      "\"tap_drops\":{},\"dropped\":{{",
      counters.frames_in, counters.frames_out, backend.tcp().flow_count(), counters.flows_asked,
      counters.flows_joined, counters.bytes_to_streams, counters.bytes_to_guest, tap.reads(),
      tap.writes(), tap.drops());
  const char* separator = "";
  for (size_t i = 0; i < net::kDropReasons; i++) {
    if (counters.drops[i] == 0) continue;
    fmt::format_to(std::back_inserter(text), "{}\"{}\":{}", separator,
                   net::drop_name(static_cast<net::Drop>(i)), counters.drops[i]);
    separator = ",";
  }
  text += "}";
  if (const net::Dns::Counters* dns = far_side.dns())
    fmt::format_to(std::back_inserter(text),
                   ",\"dns\":{{\"answered\":{},\"no_data\":{},\"not_there\":{},\"malformed\":{},"
                   "\"throttled\":{}}}",
                   dns->answered, dns->no_data, dns->not_there, dns->malformed, dns->throttled);
  return text + "}";
}

// What is typed, or sent by a test.
class Console {
 public:
  Console(int fd, net::Backend& backend, FarSide& far_side, const Tap& tap)
      : fd_(fd), backend_(backend), far_side_(far_side), tap_(tap) {}

  // False: there will be no more.
  bool on_readable() {
    char bytes[4096];
    const ssize_t count = ::read(fd_, bytes, sizeof bytes);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) return true;
    if (count <= 0) return false;
    text_.append(bytes, static_cast<size_t>(count));
    for (size_t end; (end = text_.find('\n')) != std::string::npos; text_.erase(0, end + 1)) {
      const std::string answer = obey(text_.substr(0, end));
      std::printf("%s\n", answer.c_str());
      std::fflush(stdout);
    }
    return true;
  }

 private:
  std::string obey(const std::string& line) {
    std::istringstream stream(line);
    std::vector<std::string> words{std::istream_iterator<std::string>(stream), {}};
    if (words == std::vector<std::string>{"counters"})
      return counters_json(backend_, far_side_, tap_);
    if (words.empty() || words[0] != "policy") return "error: no such command";
    words.erase(words.begin());
    Result<void> set = far_side_.set_policy(policy_of(std::move(words)), backend_);
    return set ? "policy set" : "error: " + set.error().text();
  }

  const int fd_;
  net::Backend& backend_;
  FarSide& far_side_;
  const Tap& tap_;
  std::string text_;
};

// A command that waits in the tap's namespace until the backend runs.
struct Child {
  pid_t process = -1;
  Fd go;

  void start() const { (void)::send(go.get(), "x", 1, MSG_NOSIGNAL); }
};

Result<Child> prepare(char** command, const sigset_t& signals) {
  auto [ours, theirs] = TRY(socket_pair(SOCK_SEQPACKET));
  const pid_t process = ::fork();
  if (process < 0) return fail_errno(errno, "starting a process");
  if (process == 0) {
    ours.reset();
    ::sigprocmask(SIG_SETMASK, &signals, nullptr);
    char byte;
    if (::recv(theirs.get(), &byte, 1, 0) != 1) ::_exit(127);
    ::execvp(command[0], command);
    std::perror(command[0]);
    ::_exit(127);
  }
  return Child{process, std::move(ours)};
}

// The namespace is a thread's: it makes the tap, and what it starts lives there.
Result<std::unique_ptr<Tap>> make_tap(const Options& options, const sigset_t& signals,
                                      Child& child) {
  std::optional<Result<std::unique_ptr<Tap>>> tap;
  std::thread([&] {
    tap.emplace([&]() -> Result<std::unique_ptr<Tap>> {
      if (options.tap_namespace.empty()) {
        TRY(enter_new_network());
      } else {
        Fd network = TRY(open_file(options.tap_namespace, O_RDONLY));
        if (::setns(network.get(), CLONE_NEWNET) < 0)
          return fail_errno(errno, "entering " + options.tap_namespace);
        TRY(bring_up("lo"));
      }
      std::unique_ptr<Tap> made = TRY(Tap::create(options.tap_name, options.ipv6));
      if (options.command != nullptr) child = TRY(prepare(options.command, signals));
      return made;
    }());
  }).join();
  return std::move(*tap);
}

void print_figures(const net::Counters& counters, const Tap& tap) {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  std::fprintf(stderr,
               "tap_gateway: user %.2f s, system %.2f s, MiB up %.0f, MiB down %.0f, flows %lu, "
               "tap reads %lu, tap writes %lu\n",
               seconds(usage.ru_utime), seconds(usage.ru_stime),
               static_cast<double>(counters.bytes_to_streams) / 1048576.0,
               static_cast<double>(counters.bytes_to_guest) / 1048576.0, counters.flows_joined,
               tap.reads(), tap.writes());
}

Result<int> run(const Options& options) {
  ::signal(SIGPIPE, SIG_IGN);
  sigset_t ending, before;
  ::sigemptyset(&ending);
  ::sigaddset(&ending, SIGTERM);
  ::sigaddset(&ending, SIGINT);
  ::pthread_sigmask(SIG_BLOCK, &ending, &before);
  Fd signals(::signalfd(-1, &ending, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals) return fail_errno(errno, "waiting for signals");

  std::unique_ptr<Loop> loop = TRY(Loop::create());
  Child child;
  std::unique_ptr<Tap> tap = TRY(make_tap(options, before, child));
  std::unique_ptr<FarSide> far_side = options.broker.empty()
                                          ? std::make_unique<DirectSide>(*loop)
                                          : TRY(BrokeredSide::start(*loop, options));
  net::TcpOptions tcp;
  const uint64_t syn_rate =
      options.syn_rate == 0 && options.broker.empty() ? kManySyns : options.syn_rate;
  if (syn_rate != 0) tcp.syn_burst = tcp.syns_per_second = syn_rate;
  net::Backend backend(*loop, *tap, far_side->deciders(), std::move(tcp), options.ipv6);
  TRY(tap->attach(*loop, backend));

  Watch on_signal = TRY(loop->watch(signals.get(), EPOLLIN, [&](uint32_t) {
    if (child.process > 0) ::kill(child.process, SIGTERM);
    loop->stop();
  }));
  std::optional<Console> console;
  Watch on_command;
  if (options.control >= 0) {
    console.emplace(options.control, backend, *far_side, *tap);
    on_command = TRY(loop->watch(options.control, EPOLLIN, [&](uint32_t) {
      if (console->on_readable()) return;
      on_command.reset();
      if (child.process < 0) loop->stop();
    }));
  }
  if (child.process < 0) {
    std::printf("ready broker %d\n", far_side->broker());
    std::fflush(stdout);
    TRY(loop->run());
    return 0;
  }
  child.start();
  int status = 0;
  std::thread waiter([&] {
    ::waitpid(child.process, &status, 0);
    loop->stop();
  });
  Result<void> ran = loop->run();
  waiter.join();
  TRY(std::move(ran));
  print_figures(backend.counters(), *tap);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

std::optional<uint64_t> number(std::string_view text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// Nothing: the command line is none.
std::optional<Options> read_options(int count, char** arguments) {
  constexpr option kOptions[] = {{"broker", required_argument, nullptr, 'b'},
                                 {"allow", required_argument, nullptr, 'a'},
                                 {"open-block", required_argument, nullptr, 'o'},
                                 {"dns", required_argument, nullptr, 'd'},
                                 {"ipv6", no_argument, nullptr, '6'},
                                 {"log", required_argument, nullptr, 'l'},
                                 {"syn-rate", required_argument, nullptr, 's'},
                                 {"tap-namespace", required_argument, nullptr, 'n'},
                                 {"tap-name", required_argument, nullptr, 't'},
                                 {"control-fd", required_argument, nullptr, 'c'},
                                 {}};
  Options options;
  for (int found; (found = ::getopt_long(count, arguments, "+", kOptions, nullptr)) != -1;) {
    const std::string value = optarg == nullptr ? "" : optarg;
    switch (found) {
      case 'b':
        options.broker = value;
        break;
      case 'a':
        options.allowed.push_back(value);
        break;
      case 'o':
        options.opened.push_back(value);
        break;
      case 'd':
        options.servers.push_back(value);
        break;
      case '6':
        options.ipv6 = true;
        break;
      case 'l':
        options.log = value;
        break;
      case 'n':
        options.tap_namespace = value;
        break;
      case 't':
        options.tap_name = value;
        break;
      case 's':
      case 'c': {
        const std::optional<uint64_t> read = number(value);
        if (!read || *read == 0 || *read > 1'000'000) return std::nullopt;
        if (found == 's') options.syn_rate = *read;
        if (found == 'c') options.control = static_cast<int>(*read);
        break;
      }
      default:
        return std::nullopt;
    }
  }
  if (optind < count) options.command = arguments + optind;
  // Nobody could reach a new namespace in which nothing runs.
  if (options.command == nullptr && options.tap_namespace.empty()) return std::nullopt;
  if (options.command == nullptr && options.control < 0) options.control = STDIN_FILENO;
  return options;
}

}  // namespace
}  // namespace hutch::testing

int main(int count, char** arguments) {
  const auto options = hutch::testing::read_options(count, arguments);
  if (!options) {
    std::fprintf(stderr,
                 "usage: tap_gateway [--broker PATH [--allow PATTERN]... [--open-block CIDR]... "
                 "[--dns SERVER]... [--log FILE]] [--syn-rate N] [--tap-namespace PATH] "
                 "[--tap-name NAME] [--control-fd N] [COMMAND [ARGUMENT...]]\n"
                 "one of --tap-namespace and COMMAND must be there\n");
    return 2;
  }
  const auto status = hutch::testing::run(*options);
  if (!status) std::fprintf(stderr, "tap_gateway: %s\n", status.error().text().c_str());
  return status ? *status : 1;
}
