// The backend against Linux's own TCP: a tap interface in a network namespace of its own, sockets
// on both sides, and everything that moves compared. Needs /dev/net/tun and namespaces; leaves
// nothing behind: all of it ends with the process.
#include "tests/net/tap.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <future>
#include <optional>
#include <thread>

#include "base/sys.h"
#include "net/backend.h"
#include "net/network.h"
#include "tests/net/direct_opener.h"

namespace hutch::testing {
namespace {

constexpr size_t kMiB = 1 << 20;

// Two namespaces: the process's, with the far sides, and the guest's, with the tap. The backend
// runs on a thread between them.
class World {
 public:
  // Null where the host has not what it takes.
  static World* get() {
    static World* world = [] {
      auto made = create();
      if (!made) std::printf("SKIPPED: net over a tap: %s\n", made.error().text().c_str());
      return made ? made->release() : nullptr;
    }();
    return world;
  }

  void in_guest(const std::function<void()>& function) {
    std::thread([&] {
      REQUIRE(::setns(guest_network_.get(), CLONE_NEWNET) == 0);
      function();
    }).join();
  }
  std::thread guest_thread(std::function<void()> function) {
    return std::thread([this, function = std::move(function)] {
      REQUIRE(::setns(guest_network_.get(), CLONE_NEWNET) == 0);
      function();
    });
  }
  size_t flow_count() {
    size_t count = 0;
    loop_->run_on_loop([&] { count = backend_->tcp().flow_count(); });
    return count;
  }

 private:
  static Result<std::unique_ptr<World>> create() {
    TRY(enter_new_network());
    auto world = std::make_unique<World>();
    world->loop_ = TRY(Loop::create());
    std::optional<Result<std::unique_ptr<Tap>>> tap;
    std::thread([&] {
      tap.emplace([&]() -> Result<std::unique_ptr<Tap>> {
        if (::unshare(CLONE_NEWNET) < 0) return fail_errno(errno, "making a network namespace");
        TRY(bring_up("lo"));
        world->guest_network_ = TRY(open_file("/proc/thread-self/ns/net", O_RDONLY));
        return Tap::create("eth0", true);
      }());
    }).join();
    world->tap_ = TRY(std::move(*tap));
    world->opener_ = std::make_unique<DirectOpener>(*world->loop_);
    world->backend_ = std::make_unique<net::Backend>(
        *world->loop_, *world->tap_,
        net::Backend::Deciders{*world->opener_, world->all_, world->all_, world->dns_},
        net::TcpOptions{.syn_burst = 10'000, .syns_per_second = 10'000}, true);
    TRY(world->tap_->attach(*world->loop_, *world->backend_));
    // It ends with the process.
    std::thread([loop = world->loop_.get()] { (void)loop->run(); }).detach();
    return world;
  }

  std::unique_ptr<Loop> loop_;
  AllowAll all_;
  NoDns dns_;
  std::unique_ptr<DirectOpener> opener_;
  Fd guest_network_;
  std::unique_ptr<Tap> tap_;
  std::unique_ptr<net::Backend> backend_;
};

void limit_waiting(const Fd& socket) {
  const timeval limit{.tv_sec = 30};
  (void)::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  (void)::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
}

// A listening far side.
struct Server {
  Server() : socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    REQUIRE(::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), size) == 0);
    REQUIRE(::listen(socket.get(), 1024) == 0);
    ::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address), &size);
    port = ntohs(address.sin_port);
    limit_waiting(socket);
  }
  Fd accept() const {
    Fd accepted(::accept4(socket.get(), nullptr, nullptr, SOCK_CLOEXEC));
    limit_waiting(accepted);
    return accepted;
  }
  Fd socket;
  uint16_t port = 0;
};

// Connects to the gateway's other side; the address does not matter to DirectOpener.
Fd dial6(uint16_t port) {
  Fd socket(::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
  limit_waiting(socket);
  sockaddr_in6 address{};
  address.sin6_family = AF_INET6;
  address.sin6_port = htons(port);
  ::inet_pton(AF_INET6, "2606:2800:220:1::1", &address.sin6_addr);
  if (::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) < 0) return {};
  return socket;
}

Fd dial(uint16_t port) {
  Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  limit_waiting(socket);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(0x5db8d822);  // 93.184.216.34
  if (::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) < 0) return {};
  return socket;
}

char pattern(size_t position, unsigned seed) {
  return static_cast<char>((position * 2654435761u >> 7) + seed + position / 65536);
}

bool send_pattern(const Fd& socket, size_t size, unsigned seed) {
  std::vector<char> block(100'003);
  for (size_t done = 0; done < size;) {
    const size_t part = std::min(block.size(), size - done);
    for (size_t i = 0; i < part; i++) block[i] = pattern(done + i, seed);
    if (!write_all(socket.get(), std::as_bytes(std::span(block).first(part)))) return false;
    done += part;
  }
  return true;
}

// Reads to the end; the number of right bytes, or -1.
ssize_t receive_pattern(const Fd& socket, unsigned seed) {
  std::vector<char> block(131'072);
  size_t done = 0;
  for (;;) {
    const ssize_t count = ::recv(socket.get(), block.data(), block.size(), 0);
    if (count == 0) return static_cast<ssize_t>(done);
    if (count < 0) return -1;
    for (ssize_t i = 0; i < count; i++) {
      if (block[static_cast<size_t>(i)] != pattern(done + static_cast<size_t>(i), seed)) return -1;
    }
    done += static_cast<size_t>(count);
  }
}

void both_ways(size_t size, Fd (*dial_far)(uint16_t port) = dial) {
  Server server;
  std::atomic<ssize_t> up = -2, down = -2;
  std::thread far([&] {
    Fd socket = server.accept();
    std::thread sender([&] {
      CHECK(send_pattern(socket, size, 1));
      ::shutdown(socket.get(), SHUT_WR);
    });
    up = receive_pattern(socket, 2);
    sender.join();
  });
  std::thread guest = World::get()->guest_thread([&] {
    Fd socket = dial_far(server.port);
    std::thread sender([&] {
      CHECK(send_pattern(socket, size, 2));
      ::shutdown(socket.get(), SHUT_WR);
    });
    down = receive_pattern(socket, 1);
    sender.join();
  });
  guest.join();
  far.join();
  CHECK(up == static_cast<ssize_t>(size));
  CHECK(down == static_cast<ssize_t>(size));
}

TEST_CASE("64 MiB both ways at once through Linux's TCP, each byte compared") {
  if (World::get() == nullptr) return;
  both_ways(64 * kMiB);
}

TEST_CASE("16 MiB both ways at once over IPv6") {
  if (World::get() == nullptr) return;
  both_ways(16 * kMiB, dial6);
}

TEST_CASE("eight connections both ways at once") {
  if (World::get() == nullptr) return;
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; i++) threads.emplace_back([] { both_ways(4 * kMiB); });
  for (std::thread& thread : threads) thread.join();
}

TEST_CASE("half-close: the answer comes after the question has ended, and the other way round") {
  if (World::get() == nullptr) return;
  Server server;
  std::thread far([&] {
    {
      Fd socket = server.accept();
      CHECK(receive_pattern(socket, 3) == 3'000'000);
      CHECK(send_pattern(socket, 2'000'000, 4));
    }
    Fd socket = server.accept();
    CHECK(send_pattern(socket, 1'000'000, 5));
    ::shutdown(socket.get(), SHUT_WR);
    CHECK(receive_pattern(socket, 6) == 2'000'000);
  });
  World::get()->in_guest([&] {
    {
      Fd socket = dial(server.port);
      CHECK(send_pattern(socket, 3'000'000, 3));
      ::shutdown(socket.get(), SHUT_WR);
      CHECK(receive_pattern(socket, 4) == 2'000'000);
    }
    Fd socket = dial(server.port);
    CHECK(receive_pattern(socket, 5) == 1'000'000);
    CHECK(send_pattern(socket, 2'000'000, 6));
  });
  far.join();
}

TEST_CASE("1,000 connections, one after the other, each with a question and an answer") {
  if (World::get() == nullptr) return;
  Server server;
  std::thread far([&] {
    for (int i = 0; i < 1000; i++) {
      Fd socket = server.accept();
      char question[64];
      const ssize_t count = ::recv(socket.get(), question, sizeof question, 0);
      if (count > 0) (void)::send(socket.get(), question, static_cast<size_t>(count), MSG_NOSIGNAL);
    }
  });
  int good = 0;
  World::get()->in_guest([&] {
    for (int i = 0; i < 1000; i++) {
      Fd socket = dial(server.port);
      const std::string question = fmt::format("question {}", i);
      char answer[64];
      if (::send(socket.get(), question.data(), question.size(), MSG_NOSIGNAL) < 0) continue;
      const ssize_t count = ::recv(socket.get(), answer, sizeof answer, 0);
      const bool has_ended = ::recv(socket.get(), answer + 32, 1, 0) == 0;
      if (has_ended && count > 0 &&
          std::string_view(answer, static_cast<size_t>(count)) == question)
        good++;
    }
  });
  far.join();
  CHECK(good == 1000);
}

TEST_CASE("400 connections at a time") {
  if (World::get() == nullptr) return;
  Server server;
  constexpr int kCount = 400;
  std::thread far([&] {
    std::vector<Fd> all;
    for (int i = 0; i < kCount; i++) all.push_back(server.accept());
    for (Fd& socket : all) {
      char byte = 0;
      if (::recv(socket.get(), &byte, 1, 0) == 1)
        (void)::send(socket.get(), &byte, 1, MSG_NOSIGNAL);
    }
  });
  int good = 0;
  World::get()->in_guest([&] {
    std::vector<Fd> all;
    for (int i = 0; i < kCount; i++) all.push_back(dial(server.port));
    for (int i = 0; i < kCount; i++) {
      const char byte = static_cast<char>(i);
      (void)::send(all[static_cast<size_t>(i)].get(), &byte, 1, MSG_NOSIGNAL);
    }
    for (int i = 0; i < kCount; i++) {
      char byte = 0;
      if (::recv(all[static_cast<size_t>(i)].get(), &byte, 1, 0) == 1 &&
          byte == static_cast<char>(i))
        good++;
    }
  });
  far.join();
  CHECK(good == kCount);
}

TEST_CASE("nobody listens: refused, at once") {
  if (World::get() == nullptr) return;
  const uint16_t port = free_local_port().value();
  World::get()->in_guest([&] {
    errno = 0;
    CHECK(!dial(port));
    CHECK(errno == ECONNREFUSED);
  });
}

TEST_CASE("the far side breaks the connection: so does the guest's") {
  if (World::get() == nullptr) return;
  Server server;
  std::thread far([&] {
    Fd socket = server.accept();
    char byte;
    CHECK(::recv(socket.get(), &byte, 1, 0) == 1);
    const linger at_once{.l_onoff = 1, .l_linger = 0};
    (void)::setsockopt(socket.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  });
  World::get()->in_guest([&] {
    Fd socket = dial(server.port);
    char byte = 0;
    CHECK(::send(socket.get(), &byte, 1, MSG_NOSIGNAL) == 1);
    errno = 0;
    CHECK(::recv(socket.get(), &byte, 1, 0) == -1);
    CHECK(errno == ECONNRESET);
  });
  far.join();
}

TEST_CASE("a slow reader on either side loses nothing") {
  if (World::get() == nullptr) return;
  Server server;
  std::thread far([&] {
    Fd socket = server.accept();
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    CHECK(receive_pattern(socket, 7) == 8'000'000);
    CHECK(send_pattern(socket, 8'000'000, 8));
  });
  World::get()->in_guest([&] {
    Fd socket = dial(server.port);
    CHECK(send_pattern(socket, 8'000'000, 7));
    ::shutdown(socket.get(), SHUT_WR);
    std::this_thread::sleep_for(std::chrono::milliseconds(1500));
    CHECK(receive_pattern(socket, 8) == 8'000'000);
  });
  far.join();
}

TEST_CASE("in the end no flow is left") {
  if (World::get() == nullptr) return;
  for (int i = 0; i < 100 && World::get()->flow_count() > 0; i++)
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  CHECK(World::get()->flow_count() == 0);
}

}  // namespace
}  // namespace hutch::testing
