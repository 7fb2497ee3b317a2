// DirectOpener: opens every flow as a TCP connection of this process to 127.0.0.1, at the port that
// the guest dialled. For tests and benchmarks only: nobody is asked.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <cerrno>
#include <memory>
#include <utility>

#include "base/loop.h"
#include "net/decisions.h"
#include "net/flow_opener.h"

namespace hutch::testing {

class DirectOpener final : public net::FlowOpener {
 public:
  explicit DirectOpener(Loop& loop) : loop_(loop) {}

  std::unique_ptr<net::FlowHandle> open(const net::FlowTarget& target,
                                        net::OpenCallbacks callbacks) override {
    return std::make_unique<Handle>(loop_, target.port, std::move(callbacks));
  }

 private:
  class Handle final : public net::FlowHandle {
   public:
    Handle(Loop& loop, uint16_t port, net::OpenCallbacks callbacks)
        : callbacks_(std::move(callbacks)) {
      socket_ = Fd(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
      const int on = 1;
      (void)::setsockopt(socket_.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      sockaddr_in address{};
      address.sin_family = AF_INET;
      address.sin_port = htons(port);
      address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
      (void)::connect(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address);
      // Whatever came of it, the loop says so.
      auto watch = loop.watch(socket_.get(), EPOLLOUT, [this](uint32_t events) { done(events); });
      if (watch) watch_ = std::move(*watch);
    }
    void classify(std::span<const std::byte>) override {}
    void ended(const net::FlowTotals&) override {}

   private:
    void done(uint32_t events) {
      watch_.reset();
      // May drop this object.
      auto callbacks = std::move(callbacks_);
      if ((events & (EPOLLERR | EPOLLHUP)) != 0) {
        callbacks.refused();
      } else {
        callbacks.ready(std::move(socket_), 0);
      }
    }

    net::OpenCallbacks callbacks_;
    Fd socket_;
    Watch watch_;
  };

  Loop& loop_;
};

// Nothing has a name; all literals may be asked for.
struct AllowAll final : net::NameLookup, net::LiteralPolicy {
  std::optional<std::string> find(const IpAddress&) override { return std::nullopt; }
  bool allows(const IpAddress&, uint16_t) override { return true; }
};

struct NoDns final : net::DnsResponder {
  std::optional<std::vector<std::byte>> answer(std::span<const std::byte>, size_t) override {
    return std::nullopt;
  }
};

}  // namespace hutch::testing
