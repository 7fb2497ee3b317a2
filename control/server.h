// The listening socket, its connections, and HTTP/1.1 on them (RFC 9112), plain or over TLS.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/ssl/context.hpp>
#include <cstdint>
#include <functional>
#include <memory>

#include "control/routes.h"

namespace hutch::control {

class Server {
 public:
  // Called at the start and every hour, so that a certificate that has been renewed is used.
  using MakeTls = std::function<boost::asio::ssl::context()>;

  // Binds and listens; with a port of 0, at any that is free. Without `make_tls`, it serves without
  // TLS. `services` must outlive it. Throws std::runtime_error with the cause and what mends it.
  Server(boost::asio::io_context& context, Services services, const std::string& address,
         uint16_t port, MakeTls make_tls = {});
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  uint16_t port() const;
  // For connections from now on; when it fails, those before stay in use.
  void renew_tls();
  // Takes no connections any more; those there are go on.
  void stop();

 private:
  class Listener;
  std::shared_ptr<Listener> listener_;
};

}  // namespace hutch::control
