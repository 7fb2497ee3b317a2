#include "lib/agent_connection.h"

#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>

#include <array>
#include <cerrno>
#include <string_view>

#include "base/sys.h"

namespace hutch::lib {
namespace {
constexpr size_t kReadSize = 64 * 1024;
// Received bytes per call, so that a busy agent does not keep its caller from everything else.
constexpr size_t kReadBudget = 4 * kReadSize;
constexpr size_t kEntropySize = 256;

// At most 256 bytes are never cut short and never interrupted.
Result<std::string> random_bytes(size_t size) {
  std::string bytes(size, '\0');
  if (::getrandom(bytes.data(), size, 0) != static_cast<ssize_t>(size))
    return fail_errno(errno, "asking the kernel for random bytes");
  return bytes;
}

// A random UUID (RFC 9562, version 4) without its dashes, as in machine-id(5).
Result<std::string> random_uuid() {
  std::string bytes = TRY(random_bytes(16));
  bytes[6] = static_cast<char>((bytes[6] & 0x0f) | 0x40);
  bytes[8] = static_cast<char>((bytes[8] & 0x3f) | 0x80);
  std::string text;
  for (char byte : bytes) text += fmt::format("{:02x}", static_cast<unsigned char>(byte));
  return text;
}
}  // namespace

Result<protocol::agent::Hello> make_hello(const HelloOptions& options) {
  protocol::agent::Hello hello;
  if (options.set_clock) {
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME, &now);
    hello.realtime_ns =
        static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
  }
  auto entropy = random_bytes(kEntropySize);
  if (entropy) {
    hello.entropy = *std::move(entropy);
  } else if (options.renew) {
    return tl::unexpected(std::move(entropy).error());
  }
  if (options.renew) {
    hello.machine_id = TRY(random_uuid());
    std::string digits = TRY(random_uuid());
    std::string_view all = digits;
    hello.boot_id = fmt::format("{}-{}-{}-{}-{}", all.substr(0, 8), all.substr(8, 4),
                                all.substr(12, 4), all.substr(16, 4), all.substr(20));
  }
  hello.hostname = options.host_name;
  hello.token = options.token;
  hello.mac = options.mac;
  hello.adopt = options.adopt;
  hello.service_environment = options.service_environment;
  return hello;
}

Result<std::shared_ptr<AgentConnection>> AgentConnection::create(Poller& poller, uint32_t tag,
                                                                 Fd socket) {
  TRY(set_nonblocking(socket.get()));
  std::shared_ptr<AgentConnection> connection(new AgentConnection(poller, tag, std::move(socket)));
  connection->client_.set_output_owner(connection);
  TRY(poller.watch(connection->socket_.get(), EPOLLIN, tag));
  return connection;
}

AgentConnection::AgentConnection(Poller& poller, uint32_t tag, Fd socket)
    : poller_(poller), tag_(tag), socket_(std::move(socket)) {}

AgentConnection::~AgentConnection() {
  close();
}

void AgentConnection::close() {
  if (!socket_) return;
  poller_.unwatch(socket_.get());
  socket_.reset();
  poller_.wake();
}

void AgentConnection::drop(Error reason) {
  if (!socket_) return;
  failure_ = std::move(reason);
  close();
}

void AgentConnection::acknowledge(hutch_task task, int stream, size_t size) {
  client_.acknowledge(task, stream, size);
  flush();
}

void AgentConnection::pump() {
  receive();
  flush();
}

void AgentConnection::receive() {
  std::array<std::byte, kReadSize> buffer;
  for (size_t total = 0; socket_ && total < kReadBudget;) {
    ssize_t count = ::recv(socket_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) return;
    if (count < 0 && errno != ECONNRESET) {
      drop(fail_errno(errno, "reading from the agent").value());
      return;
    }
    if (count <= 0) {
      close();
      return;
    }
    total += static_cast<size_t>(count);
    Result<void> received = client_.receive(std::span(buffer).first(static_cast<size_t>(count)));
    if (!received) {
      drop(std::move(received.error())
               .context("the agent in the guest broke the protocol and was dropped"));
      return;
    }
    if (static_cast<size_t>(count) < buffer.size()) return;
  }
}

void AgentConnection::flush() {
  while (socket_ && !client_.outgoing().empty()) {
    std::span<const std::byte> bytes = client_.outgoing();
    ssize_t count = ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) break;
    if (count < 0) {
      // What the agent said before it closed is still to be read; the read finds the end.
      if (errno != EPIPE && errno != ECONNRESET)
        drop(fail_errno(errno, "writing to the agent").value());
      break;
    }
    client_.sent(static_cast<size_t>(count));
  }
  if (!client_.events().empty()) poller_.wake();
  bool wants_output = socket_ && !client_.outgoing().empty();
  if (socket_ && wants_output != watches_output_) {
    watches_output_ = wants_output;
    poller_.modify(socket_.get(), wants_output ? EPOLLIN | EPOLLOUT : EPOLLIN, tag_);
  }
}

}  // namespace hutch::lib
