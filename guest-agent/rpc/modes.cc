#include "guest-agent/rpc/modes.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstddef>
#include <cstring>
#include <string>

#include "base/log.h"
#include "base/sys.h"
#include "guest-agent/rpc/service.h"

namespace hutch::agent::rpc {
namespace {

constexpr const char* kDefaultName = "hutch-rpc";
// A stream number must stay a whole number in the client's arithmetic.
constexpr uint64_t kMaxBase = uint64_t{1} << 50;
// Of a message on the service's socket: the kind and a number or token.
constexpr size_t kMaxMessage = 256;
constexpr std::string_view kAttach = "attach ";
constexpr std::string_view kRepl = "repl ";

struct Address {
  sockaddr_un address{};
  socklen_t size = 0;
};

Result<Address> abstract_address(const std::string& name) {
  Address made;
  made.address.sun_family = AF_UNIX;
  if (name.empty() || name.size() + 1 > sizeof made.address.sun_path)
    return fail(fmt::format("\"{}\" is no name for a socket", name));
  std::memcpy(made.address.sun_path + 1, name.data(), name.size());
  made.size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  return made;
}

Result<Fd> listen_on_name(const std::string& name) {
  Address where = TRY(abstract_address(name));
  Fd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket) return fail_errno(errno, "opening the service's socket");
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&where.address), where.size) < 0 ||
      ::listen(socket.get(), SOMAXCONN) < 0)
    return fail_errno(errno, fmt::format("listening on @{}", name),
                      "one service at a time can have the name");
  return socket;
}

Result<Fd> connect_to_name(const std::string& name) {
  Address where = TRY(abstract_address(name));
  Fd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!socket) return fail_errno(errno, "opening a socket");
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&where.address), where.size) < 0)
    return fail_errno(errno, fmt::format("connecting to @{}", name), "start the service first");
  return socket;
}

// Every process of the guest can reach the socket; only those of the own user may use it.
bool is_own(int socket) {
  ucred peer{};
  socklen_t size = sizeof peer;
  return ::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 &&
         peer.uid == ::geteuid();
}

// Takes what the other modes bring: a client's pipes, or the socket of a REPL.
class Door {
 public:
  Door(Loop& loop, Service& service, Fd listener)
      : loop_(loop), service_(service), listener_(std::move(listener)) {}

  Result<void> start() {
    watch_ = TRY(loop_.watch(listener_.get(), EPOLLIN, [this](uint32_t) { accept_one(); }));
    return {};
  }

 private:
  struct Visitor {
    Fd socket;
    Watch watch;
  };

  void accept_one() {
    Fd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket || !is_own(socket.get())) return;
    uint64_t number = next_++;
    int fd = socket.get();
    Visitor& visitor = visitors_[number];
    visitor.socket = std::move(socket);
    auto watch = loop_.watch(fd, EPOLLIN, [this, number](uint32_t) { receive(number); });
    if (!watch) {
      log_error("{}", watch.error().text());
      visitors_.erase(number);
      return;
    }
    visitor.watch = *std::move(watch);
  }

  void receive(uint64_t number) {
    auto message = receive_message(visitors_[number].socket.get(), kMaxMessage);
    if (!message || message->bytes.empty()) {
      visitors_.erase(number);
      return;
    }
    std::string_view text(reinterpret_cast<const char*>(message->bytes.data()),
                          message->bytes.size());
    if (text.starts_with(kAttach) && message->fds.size() == 2) {
      attach(number, text.substr(kAttach.size()), std::move(message->fds));
    } else if (text.starts_with(kRepl) && message->fds.size() == 1) {
      service_.deno().take_repl(std::string(text.substr(kRepl.size())), std::move(message->fds[0]));
      visitors_.erase(number);
    } else {
      visitors_.erase(number);
    }
  }

  void attach(uint64_t number, std::string_view base_text, std::vector<Fd> pipes) {
    uint64_t base = 0;
    std::from_chars(base_text.data(), base_text.data() + base_text.size(), base);
    // The visitor waits for its socket to end, which says that the client has gone.
    auto connected = service_.connect(std::move(pipes[0]), std::move(pipes[1]), base,
                                      [this, number] { visitors_.erase(number); });
    if (connected) return;
    log_error("{}", connected.error().text());
    visitors_.erase(number);
  }

  Loop& loop_;
  Service& service_;
  Fd listener_;
  Watch watch_;
  std::unordered_map<uint64_t, Visitor> visitors_;
  uint64_t next_ = 1;
};

Result<void> run_service(const std::string& name) {
  std::signal(SIGPIPE, SIG_IGN);
  auto loop = TRY(Loop::create());
  Fd connection(protocol::agent::kServiceDescriptor);
  if (::fcntl(connection.get(), F_SETFD, FD_CLOEXEC) < 0)
    return fail_errno(errno, "looking for the agent on descriptor 3",
                      "the agent starts this mode itself");
  std::string lost;
  AgentLink link(*loop, std::move(connection), [&](std::string reason) {
    lost = std::move(reason);
    loop->stop();
  });
  TRY(link.start());
  // Both outlive the function: threads that block may not end with it.
  auto* service = new Service(*loop, link, Environment(environ), name);
  auto* door = new Door(*loop, *service, TRY(listen_on_name(name)));
  TRY(door->start());
  Watch input = TRY(loop->watch(STDIN_FILENO, EPOLLIN, [&](uint32_t) {
    std::array<char, 256> ignored;
    ssize_t count = ::read(STDIN_FILENO, ignored.data(), ignored.size());
    if (count == 0 || (count < 0 && errno != EINTR && errno != EAGAIN)) loop->stop();
  }));
  constexpr std::string_view kReady = "ready\n";
  TRY(write_all(STDOUT_FILENO, std::as_bytes(std::span(kReady))));
  TRY(loop->run());
  service->deno().forget_all();
  if (!lost.empty()) return fail(std::move(lost));
  ::_exit(0);
}

Result<void> run_attach(const std::string& base_text, const std::string& name) {
  uint64_t base = 0;
  const char* end = base_text.data() + base_text.size();
  auto parsed = std::from_chars(base_text.data(), end, base);
  if (parsed.ec != std::errc() || parsed.ptr != end || base > kMaxBase)
    return fail(fmt::format("\"{}\" is no stream base, a number up to 2^50", base_text));
  Fd socket = TRY(connect_to_name(name));
  std::string message = std::string(kAttach) + base_text;
  int pipes[] = {STDIN_FILENO, STDOUT_FILENO};
  TRY(send_message(socket.get(), std::as_bytes(std::span(message)), pipes));
  // The service's copies must be the last, so that either side sees the other's end.
  ::close(STDIN_FILENO);
  ::close(STDOUT_FILENO);
  std::byte nothing;
  while (::recv(socket.get(), &nothing, 1, 0) < 0) {
    if (errno != EINTR) return fail_errno(errno, "waiting for the service");
  }
  return {};
}

// Returns only when something fails.
Result<void> run_repl(const std::string& name, const std::string& token, char** arguments) {
  Fd socket = TRY(connect_to_name(name));
  auto pair = TRY(socket_pair(SOCK_STREAM));
  std::string message = std::string(kRepl) + token;
  int ours[] = {pair.first.get()};
  TRY(send_message(socket.get(), std::as_bytes(std::span(message)), ours));
  // In place of the agent's connection, which this process has no use for.
  if (::dup2(pair.second.get(), protocol::agent::kServiceDescriptor) < 0)
    return fail_errno(errno, "placing the socket of a REPL");
  ::execv(arguments[0], arguments);
  return fail_errno(errno, fmt::format("executing {}", arguments[0]));
}

}  // namespace

std::optional<int> run_mode(int count, char** words) {
  std::string mode = count > 0 ? words[0] : "";
  auto word = [&](int i) { return i < count ? std::string(words[i]) : std::string(kDefaultName); };
  Result<void> result;
  if (mode == "rpc" && count <= 2) {
    set_log_program("hutch-rpc");
    result = run_service(word(1));
  } else if (mode == "rpc-attach" && (count == 2 || count == 3)) {
    set_log_program("hutch-rpc-attach");
    result = run_attach(words[1], word(2));
  } else if (mode == "rpc-repl" && count > 3) {
    set_log_program("hutch-rpc-repl");
    result = run_repl(words[1], words[2], words + 3);
  } else {
    return std::nullopt;
  }
  if (result) return 0;
  log_error("{}", result.error().text());
  return 1;
}

}  // namespace hutch::agent::rpc
