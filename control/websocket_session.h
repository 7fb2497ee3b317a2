// One client's WebSocket (RFC 6455) to a sandbox.
#pragma once

#include <boost/asio/ssl/stream.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/message.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/ssl/ssl_stream.hpp>
#include <chrono>
#include <memory>
#include <string>

#include "control/sandbox.h"

namespace hutch::control {

using PlainStream = boost::beast::tcp_stream;
using TlsStream = boost::beast::ssl_stream<boost::beast::tcp_stream>;
using HttpRequest = boost::beast::http::request<boost::beast::http::string_body>;

// Answers `request`, which asks for an upgrade, with 101 and relays until either side ends. The
// sandbox serves. `creator`: the connection that made it. `done` is kept as long as it lives.
// After `client_timeout` in which nothing was heard of the client, it is given up.
void run_websocket(PlainStream stream, HttpRequest request, std::shared_ptr<Sandbox> sandbox,
                   bool creator, std::string trace_id, std::shared_ptr<void> done,
                   std::chrono::seconds client_timeout);
void run_websocket(TlsStream stream, HttpRequest request, std::shared_ptr<Sandbox> sandbox,
                   bool creator, std::string trace_id, std::shared_ptr<void> done,
                   std::chrono::seconds client_timeout);

}  // namespace hutch::control
