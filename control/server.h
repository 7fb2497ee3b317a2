// The listening socket, its connections, and HTTP/1.1 on them (RFC 9112), plain or over TLS.
#pragma once

#include <boost/asio/io_context.hpp>
#include <cstdint>
#include <memory>

#include "control/routes.h"

namespace hutch::control {

class Server {
 public:
  // Binds and listens; with a port of 0, at any that is free. `services` must outlive it. Throws
  // std::runtime_error with the cause and what mends it.
  Server(boost::asio::io_context& context, Services services, const std::string& address,
         uint16_t port);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  uint16_t port() const;
  // Takes no connections any more; those there are go on.
  void stop();

 private:
  class Listener;
  std::shared_ptr<Listener> listener_;
};

}  // namespace hutch::control
