// net-peer: the two ends of what bench/net.py measures beside iperf3, one connection costing them
// as little as it can.
//
//   net-peer serve ADDRESS PORT                     echoes at PORT; at PORT + 1 answers a request
//   and
//                                                   closes. Says "ready"; ends with its input
//   net-peer connect ADDRESS PORT SECONDS COUNT     connections to PORT + 1, COUNT at a time
//   net-peer latency ADDRESS PORT SECONDS           one byte there and back, over and over
//
// The clients print one JSON object. Who closes first keeps the port for a minute: that is the
// server, so that a client never runs out of them.
#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/fd.h"
#include "base/sys.h"
#include "bench/statistics.h"

namespace hutch::bench {
namespace {

// Of a request, and of its answer.
constexpr size_t kMessage = 64;
constexpr int kBacklog = 4096;
constexpr int kEvents = 256;
constexpr int kWarmUp = 200;

[[noreturn]] void give_up(const char* what) {
  fmt::print(stderr, "net-peer: {}: {}\n", what, std::strerror(errno));
  std::exit(1);
}

sockaddr_in address_of(const char* address, unsigned long port) {
  sockaddr_in result{};
  result.sin_family = AF_INET;
  result.sin_port = htons(static_cast<uint16_t>(port));
  if (::inet_pton(AF_INET, address, &result.sin_addr) != 1) give_up(address);
  return result;
}

Fd make_socket(int flags) {
  Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0));
  if (!socket) give_up("opening a socket");
  const int on = 1;
  (void)::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return socket;
}

class Epoll {
 public:
  Epoll() : fd_(::epoll_create1(EPOLL_CLOEXEC)) {
    if (!fd_) give_up("epoll");
  }
  void add(int fd, uint32_t events) {
    epoll_event event{.events = events, .data = {.fd = fd}};
    if (::epoll_ctl(fd_.get(), EPOLL_CTL_ADD, fd, &event) < 0) give_up("epoll");
  }
  void modify(int fd, uint32_t events) {
    epoll_event event{.events = events, .data = {.fd = fd}};
    if (::epoll_ctl(fd_.get(), EPOLL_CTL_MOD, fd, &event) < 0) give_up("epoll");
  }
  std::span<const epoll_event> wait() {
    const int count = ::epoll_wait(fd_.get(), events_.data(), kEvents, 100);
    if (count < 0 && errno != EINTR) give_up("epoll");
    return std::span(events_).first(static_cast<size_t>(std::max(count, 0)));
  }

 private:
  Fd fd_;
  std::array<epoll_event, kEvents> events_{};
};

// --- The server --------------------------------------------------------------------------------

Fd listen_at(const char* address, unsigned long port) {
  Fd socket = make_socket(SOCK_NONBLOCK);
  const int on = 1;
  (void)::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  const sockaddr_in name = address_of(address, port);
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&name), sizeof name) < 0 ||
      ::listen(socket.get(), kBacklog) < 0)
    give_up("listening");
  return socket;
}

class Server {
 public:
  Server(const char* address, unsigned long port)
      : echo_(listen_at(address, port)), answer_(listen_at(address, port + 1)) {}

  int run() {
    epoll_.add(echo_.get(), EPOLLIN);
    epoll_.add(answer_.get(), EPOLLIN);
    epoll_.add(STDIN_FILENO, EPOLLIN);
    fmt::print("ready\n");
    std::fflush(stdout);
    for (;;) {
      for (const epoll_event& event : epoll_.wait()) {
        const int fd = event.data.fd;
        if (fd == STDIN_FILENO) return 0;
        if (fd == echo_.get() || fd == answer_.get()) {
          accept(fd);
        } else {
          serve(fd);
        }
      }
    }
  }

 private:
  struct Connection {
    Fd socket;
    bool is_echo = false;
    size_t received = 0;
  };

  void accept(int listening) {
    for (;;) {
      Fd socket(::accept4(listening, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (!socket) return;
      const int fd = socket.get();
      epoll_.add(fd, EPOLLIN);
      connections_[fd] = {std::move(socket), listening == echo_.get(), 0};
    }
  }

  void serve(int fd) {
    Connection& connection = connections_[fd];
    std::array<char, kMessage> bytes;
    const ssize_t count = ::recv(fd, bytes.data(), bytes.size(), 0);
    if (count < 0 && errno == EAGAIN) return;
    if (count <= 0) {
      connections_.erase(fd);
      return;
    }
    connection.received += static_cast<size_t>(count);
    if (connection.is_echo) {
      (void)::send(fd, bytes.data(), static_cast<size_t>(count), MSG_NOSIGNAL);
    } else if (connection.received == kMessage) {
      (void)::send(fd, bytes.data(), kMessage, MSG_NOSIGNAL);
      connections_.erase(fd);
    }
  }

  Fd echo_;
  Fd answer_;
  Epoll epoll_;
  std::unordered_map<int, Connection> connections_;
};

// --- The clients -------------------------------------------------------------------------------

double seconds_since(uint64_t start_ns) {
  return static_cast<double>(monotonic_ns() - start_ns) / 1e9;
}

class Connector {
 public:
  Connector(const char* address, unsigned long port) : server_(address_of(address, port + 1)) {}

  int run(double seconds, size_t count) {
    const uint64_t start_ns = monotonic_ns();
    for (size_t i = 0; i < count; i++) begin();
    while (seconds_since(start_ns) < seconds) {
      for (const epoll_event& event : epoll_.wait()) go_on(event.data.fd, event.events);
    }
    fmt::print("{{\"count\":{},\"failed\":{},\"seconds\":{:.6f}}}\n", done_, failed_,
               seconds_since(start_ns));
    return 0;
  }

 private:
  struct Connection {
    Fd socket;
    bool has_asked = false;
    size_t received = 0;
  };

  void begin() {
    Fd socket = make_socket(SOCK_NONBLOCK);
    if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&server_), sizeof server_) < 0 &&
        errno != EINPROGRESS)
      give_up("connecting");
    const int fd = socket.get();
    epoll_.add(fd, EPOLLOUT);
    connections_[fd] = {std::move(socket), false, 0};
  }

  void go_on(int fd, uint32_t events) {
    Connection& connection = connections_[fd];
    std::array<char, kMessage> bytes{};
    if (!connection.has_asked) {
      if ((events & EPOLLERR) != 0 ||
          ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL) != ssize_t{kMessage})
        return finish(fd, false);
      connection.has_asked = true;
      epoll_.modify(fd, EPOLLIN);
      return;
    }
    for (;;) {
      const ssize_t count = ::recv(fd, bytes.data(), bytes.size(), 0);
      if (count < 0 && errno == EAGAIN) return;
      if (count < 0) return finish(fd, false);
      if (count == 0) return finish(fd, connection.received == kMessage);
      connection.received += static_cast<size_t>(count);
    }
  }

  void finish(int fd, bool is_good) {
    (is_good ? done_ : failed_)++;
    connections_.erase(fd);
    begin();
  }

  const sockaddr_in server_;
  Epoll epoll_;
  std::unordered_map<int, Connection> connections_;
  uint64_t done_ = 0;
  uint64_t failed_ = 0;
};

int measure_latency(const char* address, unsigned long port, double seconds) {
  Fd socket = make_socket(0);
  const sockaddr_in name = address_of(address, port);
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&name), sizeof name) < 0)
    give_up("connecting");
  std::vector<double> microseconds;
  auto there_and_back = [&] {
    char byte = 'x';
    if (::send(socket.get(), &byte, 1, MSG_NOSIGNAL) != 1 || ::recv(socket.get(), &byte, 1, 0) != 1)
      give_up("one byte there and back");
  };
  for (int i = 0; i < kWarmUp; i++) there_and_back();
  const uint64_t start_ns = monotonic_ns();
  while (seconds_since(start_ns) < seconds) {
    const uint64_t before_ns = monotonic_ns();
    there_and_back();
    microseconds.push_back(static_cast<double>(monotonic_ns() - before_ns) / 1e3);
  }
  fmt::print("{{\"count\":{},\"p50_us\":{:.3f},\"p99_us\":{:.3f}}}\n", microseconds.size(),
             percentile(microseconds, 0.5), percentile(microseconds, 0.99));
  return 0;
}

int run(std::vector<const char*> words) {
  ::signal(SIGPIPE, SIG_IGN);
  auto number = [&](size_t index) { return std::strtoul(words[index], nullptr, 10); };
  const std::string verb = words.empty() ? "" : words[0];
  if (verb == "serve" && words.size() == 3) return Server(words[1], number(2)).run();
  if (verb == "connect" && words.size() == 5)
    return Connector(words[1], number(2)).run(std::strtod(words[3], nullptr), number(4));
  if (verb == "latency" && words.size() == 4)
    return measure_latency(words[1], number(2), std::strtod(words[3], nullptr));
  fmt::print(stderr,
             "usage: net-peer serve ADDRESS PORT | connect ADDRESS PORT SECONDS COUNT | "
             "latency ADDRESS PORT SECONDS\n");
  return 2;
}

}  // namespace
}  // namespace hutch::bench

int main(int count, char** words) {
  return hutch::bench::run({words + 1, words + count});
}
