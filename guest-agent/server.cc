#include "guest-agent/server.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/time.h>
// Behind sys/socket.h, which it needs.
#include <linux/vm_sockets.h>

#include <algorithm>
#include <cerrno>
#include <charconv>

#include "base/log.h"
#include "base/sys.h"

namespace hutch::agent {
namespace {

// Connections at once to an agent that listens.
constexpr size_t kMaxSessions = 64;

}  // namespace

Result<Fd> dial_host(std::chrono::seconds limit) {
  Fd socket(::socket(AF_VSOCK, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket)
    return fail_errno(errno, "opening a vsock socket", "the guest kernel needs virtio-vsock");
  timeval time{.tv_sec = limit.count(), .tv_usec = 0};
  if (::setsockopt(socket.get(), AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT_NEW, &time, sizeof time) <
      0)
    return fail_errno(errno, "setting the time limit of the connection to the host");
  sockaddr_vm address{};
  address.svm_family = AF_VSOCK;
  address.svm_cid = VMADDR_CID_HOST;
  address.svm_port = protocol::agent::kHostPort;
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0 &&
      errno != EINPROGRESS)
    return fail_errno(
        errno, fmt::format("connecting to vsock port {} of the host", protocol::agent::kHostPort),
        "the VMM must offer a virtio-vsock device");
  return socket;
}

Result<Fd> listen_on(const std::string& address) {
  size_t colon = address.rfind(':');
  std::string host = address.substr(0, colon);
  uint16_t port = 0;
  bool has_port = false;
  if (colon != std::string::npos) {
    const char* end = address.data() + address.size();
    auto parsed = std::from_chars(address.data() + colon + 1, end, port);
    has_port = parsed.ec == std::errc() && parsed.ptr == end;
  }
  if (host.size() > 2 && host.front() == '[' && host.back() == ']')
    host = host.substr(1, host.size() - 2);
  sockaddr_in four{};
  sockaddr_in6 six{};
  const sockaddr* where = nullptr;
  socklen_t size = 0;
  if (has_port && ::inet_pton(AF_INET, host.c_str(), &four.sin_addr) == 1) {
    four.sin_family = AF_INET;
    four.sin_port = htons(port);
    where = reinterpret_cast<const sockaddr*>(&four);
    size = sizeof four;
  } else if (has_port && ::inet_pton(AF_INET6, host.c_str(), &six.sin6_addr) == 1) {
    six.sin6_family = AF_INET6;
    six.sin6_port = htons(port);
    where = reinterpret_cast<const sockaddr*>(&six);
    size = sizeof six;
  } else {
    return fail(fmt::format("\"{}\" is not an address to listen on", address),
                "write it as 127.0.0.1:4000 or [::1]:4000");
  }
  Fd listener(::socket(where->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!listener) return fail_errno(errno, "opening a socket to listen on");
  int yes = 1;
  if (::setsockopt(listener.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) < 0 ||
      ::bind(listener.get(), where, size) < 0 || ::listen(listener.get(), SOMAXCONN) < 0)
    return fail_errno(errno, fmt::format("listening on {}", address));
  return listener;
}

Result<uint16_t> port_of(const Fd& listener) {
  // Both families have the port at the same place.
  sockaddr_in6 address{};
  socklen_t size = sizeof address;
  if (::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &size) < 0)
    return fail_errno(errno, "asking for the port of a socket");
  return ntohs(address.sin6_port);
}

Fd open_own_program() {
  return Fd(::open("/proc/self/exe", O_PATH | O_CLOEXEC));
}

Result<std::unique_ptr<Server>> Server::create(SessionOptions options,
                                               const std::string& cgroup_mount, Fd program) {
  std::unique_ptr<Server> server(new Server(std::move(options)));
  server->loop_ = TRY(Loop::create());
  server->reaper_ =
      TRY(Reaper::create(*server->loop_, [server = server.get()] { server->cgroups_.sweep(); }));
  Fd cgroups;
  if (!cgroup_mount.empty()) {
    server->cgroups_ = TRY(Cgroups::create(cgroup_mount));
    cgroups = TRY(open_file(cgroup_mount, O_RDONLY | O_DIRECTORY));
  }
  server->freezer_ = std::make_unique<Freezer>(*server->loop_, std::move(cgroups));
  server->services_ = std::make_unique<Services>(*server->loop_, *server->reaper_, server->cgroups_,
                                                 *server->freezer_);
  server->services_->program = std::move(program);
  server->services_->serve = [server = server.get()](Fd connection, std::string user) {
    return server->add(std::move(connection),
                       {.token = "", .owns_system = false, .ipv6 = false, .user = std::move(user)});
  };
  return server;
}

Result<std::weak_ptr<Outbox>> Server::add(Fd connection, SessionOptions options) {
  auto session = std::make_shared<Session>(*services_, std::move(options), std::move(connection));
  TRY(session->start());
  sessions_.push_back(session);
  return session;
}

// All but the first, whose end its caller looks for.
void Server::drop_ended() {
  for (size_t i = sessions_.size(); i > 1; i--) {
    const Session& session = *sessions_[i - 1];
    if (!session.is_over()) continue;
    if (!session.reason().empty()) log_error("a connection was dropped: {}", session.reason());
    sessions_.erase(sessions_.begin() + static_cast<ptrdiff_t>(i - 1));
  }
}

Result<void> Server::run_round() {
  TRY(loop_->run_once(-1));
  for (auto& session : sessions_) {
    session->end_round();
    if (!shutdown_) shutdown_ = session->shutdown();
  }
  return {};
}

Result<std::optional<protocol::agent::ShutdownKind>> Server::serve(Fd connection,
                                                                   const Dial& dial_again) {
  TRY(add(std::move(connection), options_));
  Session& session = *sessions_.front();
  std::optional<std::string> first_loss;
  for (;;) {
    while (!session.is_over() && !shutdown_) {
      TRY(run_round());
      drop_ended();
    }
    if (shutdown_ || !session.was_lost() || !session.is_authenticated()) break;
    first_loss = session.reason();
    Result<Fd> again = dial_again();
    if (!again || !*again) break;
    TRY(session.reconnect(*std::move(again)));
  }
  if (shutdown_) return shutdown_;
  // Nobody at the second call: the end is that of the first.
  std::string reason = session.was_lost() && first_loss ? *first_loss : session.reason();
  if (!reason.empty()) return fail(std::move(reason));
  return std::nullopt;
}

void Server::accept_one(int listener) {
  Fd connection(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
  // The peer may have gone again; anything else comes back with the next connection.
  if (!connection) {
    if (errno != EAGAIN && errno != ECONNABORTED) log_error("accepting: errno {}", errno);
    return;
  }
  if (sessions_.size() >= kMaxSessions) {
    // The oldest that has not shown its token makes room, so that strangers cannot lock the host
    // out.
    auto stranger = std::find_if(sessions_.begin(), sessions_.end(),
                                 [](const auto& session) { return !session->is_authenticated(); });
    if (stranger == sessions_.end()) {
      log_warning("more than {} connections at once: one is refused", kMaxSessions);
      return;
    }
    sessions_.erase(stranger);
  }
  int yes = 1;
  if (::setsockopt(connection.get(), IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes) < 0)
    log_warning("asking a connection not to delay: errno {}", errno);
  auto added = add(std::move(connection), options_);
  if (!added) log_error("{}", added.error().text());
}

Result<std::optional<protocol::agent::ShutdownKind>> Server::serve_all(Fd listener) {
  Watch watch =
      TRY(loop_->watch(listener.get(), EPOLLIN, [&](uint32_t) { accept_one(listener.get()); }));
  while (!shutdown_) {
    TRY(run_round());
    std::erase_if(sessions_, [&](const auto& session) {
      if (!session->is_over()) return false;
      if (!session->reason().empty()) log_error("a connection was dropped: {}", session->reason());
      // Here no host comes back for the machine as it was saved.
      if (session->holds_freeze()) freezer_->thaw();
      return true;
    });
  }
  return shutdown_;
}

}  // namespace hutch::agent
