#include "control/tls.h"

#include <fmt/format.h>
#include <openssl/ssl.h>

#include <stdexcept>

namespace hutch::control {
namespace {

constexpr unsigned char kProtocols[] = "\x08http/1.1";

int choose_protocol(SSL*, const unsigned char** chosen, unsigned char* size,
                    const unsigned char* offered, unsigned offered_size, void*) {
  unsigned char* found = nullptr;
  int result =
      SSL_select_next_proto(&found, size, kProtocols, sizeof kProtocols - 1, offered, offered_size);
  *chosen = found;
  return result == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_ALERT_FATAL;
}

}  // namespace

boost::asio::ssl::context make_tls_context(const std::string& certificate, const std::string& key) {
  namespace ssl = boost::asio::ssl;
  ssl::context context(ssl::context::tls_server);
  context.set_options(ssl::context::default_workarounds);
  if (SSL_CTX_set_min_proto_version(context.native_handle(), TLS1_2_VERSION) != 1)
    throw std::runtime_error("OpenSSL cannot be held to TLS 1.2 and above");
  SSL_CTX_set_alpn_select_cb(context.native_handle(), choose_protocol, nullptr);
  boost::system::error_code error;
  context.use_certificate_chain_file(certificate, error);
  if (error)
    throw std::runtime_error(fmt::format("tls_cert {}: {}; it wants a chain of certificates in PEM",
                                         certificate, error.message()));
  context.use_private_key_file(key, ssl::context::pem, error);
  if (error)
    throw std::runtime_error(
        fmt::format("tls_key {}: {}; it wants the key of tls_cert in PEM", key, error.message()));
  return context;
}

}  // namespace hutch::control
