// The server's side of TLS 1.2 and 1.3.
#pragma once

#include <boost/asio/ssl/context.hpp>
#include <string>

namespace hutch::control {

// `certificate` is a chain and `key` its key, PEM files. Offers http/1.1 alone by ALPN, as
// WebSockets need it. Throws std::runtime_error that names the file.
boost::asio::ssl::context make_tls_context(const std::string& certificate, const std::string& key);

}  // namespace hutch::control
