#include "broker/dialer.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace hutch::broker {
namespace {

socklen_t fill(sockaddr_storage& storage, const IpAddress& address, uint16_t port) {
  if (address.is_v4()) {
    sockaddr_in v4{};
    v4.sin_family = AF_INET;
    v4.sin_port = htons(port);
    v4.sin_addr.s_addr = htonl(address.v4_value());
    std::memcpy(&storage, &v4, sizeof v4);
    return sizeof v4;
  }
  sockaddr_in6 v6{};
  v6.sin6_family = AF_INET6;
  v6.sin6_port = htons(port);
  std::memcpy(&v6.sin6_addr, address.bytes().data(), address.bytes().size());
  std::memcpy(&storage, &v6, sizeof v6);
  return sizeof v6;
}

}  // namespace

Dial::Dial(Loop& loop, std::vector<IpAddress> addresses, uint16_t port,
           std::function<void(Connected)> done)
    : loop_(loop), addresses_(std::move(addresses)), port_(port), done_(std::move(done)) {
  timeout_ = loop_.after(kTimeout, [this](uint32_t) { finish({}); });
  // Later, so that whoever dials has this object when it is answered.
  delay_ = loop_.after(std::chrono::nanoseconds(0), [this](uint32_t) { begin_next(); });
}

void Dial::begin_next() {
  while (next_ < addresses_.size()) {
    if (!begin(addresses_[next_++])) continue;
    if (next_ < addresses_.size()) delay_ = loop_.after(kDelay, [this](uint32_t) { begin_next(); });
    return;
  }
  if (attempts_.empty()) finish({});
}

bool Dial::begin(const IpAddress& address) {
  auto attempt = std::make_unique<Attempt>();
  attempt->address = address;
  attempt->socket = Fd(::socket(address.is_v4() ? AF_INET : AF_INET6,
                                SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!attempt->socket) return false;
  int on = 1;
  ::setsockopt(attempt->socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  ::setsockopt(attempt->socket.get(), SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  sockaddr_storage storage{};
  socklen_t size = fill(storage, address, port_);
  if (::connect(attempt->socket.get(), reinterpret_cast<sockaddr*>(&storage), size) < 0 &&
      errno != EINPROGRESS)
    return false;
  Attempt& begun = *attempt;
  Result<Watch> watch =
      loop_.watch(begun.socket.get(), EPOLLOUT, [this, &begun](uint32_t) { on_ready(begun); });
  if (!watch) return false;
  begun.watch = *std::move(watch);
  attempts_.push_back(std::move(attempt));
  return true;
}

void Dial::on_ready(Attempt& attempt) {
  int error = 0;
  socklen_t size = sizeof error;
  if (::getsockopt(attempt.socket.get(), SOL_SOCKET, SO_ERROR, &error, &size) < 0) error = errno;
  attempt.watch.reset();
  if (error == 0) return finish({std::move(attempt.socket), attempt.address});
  std::erase_if(attempts_, [&](const auto& other) { return other.get() == &attempt; });
  // The next one need not wait.
  delay_.reset();
  begin_next();
}

void Dial::finish(Connected connected) {
  attempts_.clear();
  delay_.reset();
  timeout_.reset();
  auto done = std::exchange(done_, nullptr);
  done(std::move(connected));
}

}  // namespace hutch::broker
