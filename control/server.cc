#include "control/server.h"

#include <fmt/format.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/websocket/rfc6455.hpp>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <optional>

#include "base/log.h"
#include "control/ids.h"
#include "control/problem.h"
#include "control/tokens.h"
#include "control/websocket_session.h"

namespace hutch::control {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using asio::ip::tcp;
using boost::system::error_code;

// Secrets travel in a header.
constexpr uint32_t kHeaderLimit = 256 * 1024;
constexpr uint64_t kBodyLimit = 1 << 20;
constexpr std::chrono::seconds kRequestTime{60};
constexpr std::chrono::seconds kWriteTime{30};
constexpr std::chrono::seconds kLingerTime{2};
constexpr size_t kLingerSize = 4 << 20;
constexpr std::chrono::milliseconds kAcceptPause{200};
constexpr std::chrono::hours kRenewTime{1};
constexpr int kProbes = 4;
constexpr const char* kConfigHeader = "x-deno-sandbox-config";
constexpr const char* kOrganisationHeader = "X-Deno-Org";

std::string field(const HttpRequest& request, std::string_view name) {
  auto value = request[name];
  return {value.data(), value.size()};
}

// Counts a connection as long as it lives.
struct Counted {
  explicit Counted(std::shared_ptr<int64_t> counter) : count(std::move(counter)) { ++*count; }
  ~Counted() { --*count; }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;
  std::shared_ptr<int64_t> count;
};

template <typename Stream>
class Connection : public std::enable_shared_from_this<Connection<Stream>> {
 public:
  Connection(Stream stream, Services services, std::shared_ptr<Counted> counted)
      : stream_(std::move(stream)), services_(services), counted_(std::move(counted)) {}

  void run() {
    if constexpr (std::is_same_v<Stream, TlsStream>) {
      lowest().expires_after(kRequestTime);
      stream_.async_handshake(asio::ssl::stream_base::server, [self = self()](error_code error) {
        if (!error) self->read();
      });
    } else {
      read();
    }
  }

 private:
  std::shared_ptr<Connection> self() { return this->shared_from_this(); }
  beast::tcp_stream& lowest() { return beast::get_lowest_layer(stream_); }

  void read() {
    parser_.emplace();
    parser_->header_limit(kHeaderLimit);
    parser_->body_limit(kBodyLimit);
    lowest().expires_after(kRequestTime);
    http::async_read(stream_, buffer_, *parser_, [self = self()](error_code error, size_t) {
      if (error == http::error::header_limit)
        return self->refuse(Problem(431, "HEADER_TOO_LARGE", "the request's header is too large"));
      if (error == http::error::body_limit)
        return self->refuse(Problem(413, "BODY_TOO_LARGE", "the request's body is too large"));
      if (error.category() == http::make_error_code(http::error::bad_method).category() &&
          error != http::error::end_of_stream && error != http::error::partial_message)
        return self->refuse(Problem(400, "INVALID_REQUEST", "this is not HTTP/1.1"));
      if (error) return self->close();
      self->handle();
    });
  }

  void handle() {
    request_ = parser_->release();
    trace_id_ = random_hex(8);
    keep_alive_ = request_.keep_alive();
    lowest().expires_never();
    if (beast::websocket::is_upgrade(request_)) return upgrade();
    ApiRequest request;
    request.method = std::string(request_.method_string());
    request.target = std::string(request_.target());
    request.authorization = field(request_, "Authorization");
    request.organisation = field(request_, kOrganisationHeader);
    request.body = std::move(request_.body());
    route(services_, request,
          [self = self()](ApiResponse response) { self->respond(std::move(response)); });
  }

  // What cannot be read; nothing behind it can be, either.
  void refuse(const Problem& problem) {
    keep_alive_ = false;
    trace_id_ = random_hex(8);
    respond(problem_response(problem));
  }

  void respond(ApiResponse response) {
    answer_ = {};
    answer_.version(11);
    answer_.result(static_cast<unsigned>(response.status));
    answer_.set(http::field::server, "hutch/" HUTCH_VERSION);
    answer_.set(http::field::content_type, "application/json");
    answer_.set(http::field::cache_control, "no-store");
    answer_.set("x-deno-trace-id", trace_id_);
    if (!response.header.first.empty()) answer_.set(response.header.first, response.header.second);
    answer_.keep_alive(keep_alive_);
    // RFC 9110, section 7.8: Upgrade is for this connection alone.
    if (response.status == 426) answer_.insert(http::field::connection, "upgrade");
    answer_.body() = std::move(response.body);
    answer_.prepare_payload();
    if (response.status >= 500)
      log_warning("request {} was answered with {}", trace_id_, response.status);
    lowest().expires_after(kWriteTime);
    http::async_write(stream_, answer_, [self = self()](error_code error, size_t) {
      if (error) return self->close();
      if (!self->keep_alive_) return self->linger();
      self->read();
    });
  }

  void upgrade() {
    // Whatever follows a refused upgrade is not ours to read as HTTP.
    try {
      UpgradeTarget target = upgrade_target(std::string(request_.target()));
      std::string organisation = authenticate(services_.store, field(request_, "Authorization"),
                                              field(request_, kOrganisationHeader));
      creator_ = target.sandbox_id.empty();
      if (creator_) {
        SandboxConfig config =
            parse_sandbox_config(field(request_, kConfigHeader), services_.config);
        request_.erase(kConfigHeader);
        sandbox_ = services_.sandboxes.create(organisation, config);
      } else {
        sandbox_ = services_.sandboxes.find(organisation, target.sandbox_id);
      }
    } catch (const Problem& problem) {
      keep_alive_ = false;
      return respond(problem_response(problem));
    } catch (const std::exception& error) {
      log_error("request {} failed: {}", trace_id_, error.what());
      keep_alive_ = false;
      return respond(
          problem_response(Problem(500, "INTERNAL_ERROR", "the server failed; its log says why")));
    }
    watch();
    sandbox_->when_ready([self = self()](const Problem* problem) {
      self->waiting_ = false;
      if (self->gone_) return;
      if (problem != nullptr) {
        self->keep_alive_ = false;
        return self->respond(problem_response(*problem));
      }
      self->lowest().socket().cancel();
      // After the wait's own end.
      asio::post(self->stream_.get_executor(), [self] {
        if (self->gone_) return;
        run_websocket(std::move(self->stream_), std::move(self->request_), self->sandbox_,
                      self->creator_, self->trace_id_, self->counted_,
                      std::chrono::seconds(self->services_.config.client_timeout_s));
      });
    });
  }

  // A creator that goes away while its sandbox starts takes it along.
  void watch() {
    waiting_ = true;
    lowest().socket().async_wait(tcp::socket::wait_read, [self = self()](error_code error) {
      if (error || !self->waiting_) return;
      char byte = 0;
      ssize_t count =
          ::recv(self->lowest().socket().native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
      // One that speaks before it is answered is there.
      if (count > 0 || (count < 0 && (errno == EAGAIN || errno == EINTR))) return;
      self->gone_ = true;
      if (self->creator_) self->sandbox_->end("its creator went away while it started");
    });
  }

  // Takes what the client still sends, for a moment: a close before that resets the connection, and
  // the client may lose the answer.
  void linger() {
    error_code ignored;
    lowest().socket().shutdown(tcp::socket::shutdown_send, ignored);
    lowest().expires_after(kLingerTime);
    discard();
  }
  void discard() {
    lowest().async_read_some(asio::buffer(discarded_),
                             [self = self()](error_code error, size_t size) {
                               self->discarded_size_ += size;
                               if (error || self->discarded_size_ > kLingerSize)
                                 return self->close();
                               self->discard();
                             });
  }

  void close() {
    error_code ignored;
    lowest().socket().shutdown(tcp::socket::shutdown_send, ignored);
    lowest().close();
  }

  Stream stream_;
  Services services_;
  std::shared_ptr<Counted> counted_;
  beast::flat_buffer buffer_;
  std::optional<http::request_parser<http::string_body>> parser_;
  HttpRequest request_;
  http::response<http::string_body> answer_;
  std::string trace_id_;
  std::array<char, 4096> discarded_;
  size_t discarded_size_ = 0;
  bool keep_alive_ = false;
  std::shared_ptr<Sandbox> sandbox_;
  bool creator_ = false, waiting_ = false, gone_ = false;
};

}  // namespace

class Server::Listener : public std::enable_shared_from_this<Listener> {
 public:
  Listener(asio::io_context& context, Services services, const std::string& address, uint16_t port,
           MakeTls make_tls)
      : acceptor_(context),
        pause_(context),
        renew_timer_(context),
        services_(services),
        make_tls_(std::move(make_tls)) {
    if (make_tls_) tls_.emplace(make_tls_());
    tcp::endpoint endpoint(asio::ip::make_address(address), port);
    try {
      acceptor_.open(endpoint.protocol());
      acceptor_.set_option(asio::socket_base::reuse_address(true));
      acceptor_.bind(endpoint);
      acceptor_.listen();
    } catch (const boost::system::system_error& error) {
      throw std::runtime_error(fmt::format(
          "listening at {} port {}: {}; is another server there? choose another with --port",
          address, port, error.code().message()));
    }
  }

  uint16_t port() const { return acceptor_.local_endpoint().port(); }
  void stop() {
    error_code ignored;
    acceptor_.close(ignored);
    pause_.cancel();
    renew_timer_.cancel();
  }

  void renew_tls() {
    try {
      // Connections keep what they have of the one before.
      tls_.emplace(make_tls_());
    } catch (const std::exception& error) {
      log_error("the certificate stays as it was: {}", error.what());
    }
  }
  void renew_later() {
    if (!tls_) return;
    renew_timer_.expires_after(kRenewTime);
    renew_timer_.async_wait([self = shared_from_this()](error_code error) {
      if (error) return;
      self->renew_tls();
      self->renew_later();
    });
  }

  void accept() {
    acceptor_.async_accept([self = shared_from_this()](error_code error, tcp::socket socket) {
      if (error == asio::error::operation_aborted) return;
      if (error || *self->count_ >= self->services_.config.max_connections) {
        // Out of descriptors, or full: those that wait in the queue wait a little longer.
        error_code ignored;
        socket.close(ignored);
        self->pause_.expires_after(kAcceptPause);
        self->pause_.async_wait([self](error_code stopped) {
          if (!stopped) self->accept();
        });
        return;
      }
      self->serve(std::move(socket));
      self->accept();
    });
  }

 private:
  void serve(tcp::socket socket) {
    error_code ignored;
    socket.set_option(tcp::no_delay(true), ignored);
    // A client's host that has vanished is noticed: by probes while nothing is sent, and by what it
    // does not acknowledge or has no room for.
    socket.set_option(asio::socket_base::keep_alive(true), ignored);
    int seconds = static_cast<int>(services_.config.client_timeout_s);
    auto set = [&](int option, int value) {
      if (::setsockopt(socket.native_handle(), IPPROTO_TCP, option, &value, sizeof value) < 0)
        log_warning("a connection has no timeout of its own: {}", std::strerror(errno));
    };
    set(TCP_KEEPIDLE, std::max(seconds / 2, 1));
    set(TCP_KEEPINTVL, std::max(seconds / 8, 1));
    set(TCP_KEEPCNT, kProbes);
    set(TCP_USER_TIMEOUT, seconds * 1000);
    auto counted = std::make_shared<Counted>(count_);
    if (tls_) {
      std::make_shared<Connection<TlsStream>>(TlsStream(std::move(socket), *tls_), services_,
                                              std::move(counted))
          ->run();
    } else {
      std::make_shared<Connection<PlainStream>>(PlainStream(std::move(socket)), services_,
                                                std::move(counted))
          ->run();
    }
  }

  tcp::acceptor acceptor_;
  asio::steady_timer pause_, renew_timer_;
  Services services_;
  MakeTls make_tls_;
  std::optional<asio::ssl::context> tls_;
  std::shared_ptr<int64_t> count_ = std::make_shared<int64_t>(0);
};

Server::Server(asio::io_context& context, Services services, const std::string& address,
               uint16_t port, MakeTls make_tls)
    : listener_(std::make_shared<Listener>(context, services, address, port, std::move(make_tls))) {
  listener_->accept();
  listener_->renew_later();
}

Server::~Server() {
  listener_->stop();
}

uint16_t Server::port() const {
  return listener_->port();
}

void Server::renew_tls() {
  listener_->renew_tls();
}

void Server::stop() {
  listener_->stop();
}

}  // namespace hutch::control
