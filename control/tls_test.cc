// TLS: certificates of our own, and real handshakes with the server, HTTP and WebSocket.
#include "control/tls.h"

#include <doctest/doctest.h>
#include <openssl/ssl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/asio/ssl/host_name_verification.hpp>
#include <boost/beast/ssl/ssl_stream.hpp>
#include <boost/beast/websocket/ssl.hpp>
#include <cstdlib>
#include <filesystem>
#include <optional>

#include "base/sys.h"
#include "control/certificates.h"
#include "control/clock.h"
#include "control/data_folder.h"
#include "control/ids.h"
#include "control/server_fixture.h"

using namespace hutch::control;
using namespace hutch::control::testing;
namespace ssl = asio::ssl;

namespace {

constexpr int64_t kDay = 86'400;
const std::vector<std::string> kNames{"localhost", "127.0.0.1", "::1"};

struct Folder {
  Folder() { REQUIRE(::mkdtemp(path.data()) != nullptr); }
  ~Folder() { std::filesystem::remove_all(path); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  std::string path = "/tmp/hutch-tls-XXXXXX";
};

std::string content(const std::string& path) {
  hutch::Result<std::string> text = hutch::read_file(path, 1 << 16);
  REQUIRE(text.has_value());
  return *text;
}

mode_t mode(const std::string& path) {
  struct stat status {};
  REQUIRE(::stat(path.c_str(), &status) == 0);
  return status.st_mode & 0777;
}

Server::MakeTls tls_of(const CertificateFiles& files) {
  return [files] { return make_tls_context(files.certificate, files.key); };
}

struct Client {
  explicit Client(const std::string& authority, std::string wanted = "127.0.0.1")
      : name(std::move(wanted)) {
    context.load_verify_file(authority);
    context.set_verify_mode(ssl::verify_peer);
  }
  // Nothing when the handshake fails; `error` says why.
  std::optional<beast::ssl_stream<tcp::socket>> connect(Fixture& fixture) {
    beast::ssl_stream<tcp::socket> stream(fixture.connect(), context);
    stream.set_verify_callback(ssl::host_name_verification(name));
    stream.handshake(ssl::stream_base::client, error);
    if (error) return std::nullopt;
    return stream;
  }
  ssl::context context{ssl::context::tls_client};
  std::string name;
  boost::system::error_code error;
};

// GET /healthz and a sandbox over a WebSocket, both of which must work.
void use(Fixture& fixture, Client& client) {
  auto stream = client.connect(fixture);
  CAPTURE(client.error.message());
  REQUIRE(stream.has_value());
  http::write(*stream, http::request<http::empty_body>(http::verb::get, "/healthz", 11));
  beast::flat_buffer buffer;
  http::response<http::string_body> response;
  http::read(*stream, buffer, response);
  CHECK(response.result_int() == 200);
  CHECK(json::parse(response.body())["status"] == "ok");

  auto second = client.connect(fixture);
  REQUIRE(second.has_value());
  websocket::stream<beast::ssl_stream<tcp::socket>> socket(std::move(*second));
  socket.set_option(websocket::stream_base::decorator([&](websocket::request_type& request) {
    request.set("Authorization", "Bearer " + fixture.token);
  }));
  websocket::response_type answer;
  socket.handshake(answer, "127.0.0.1", kCreate);
  CHECK(is_sandbox_id(std::string(answer["x-deno-sandbox-id"])));
  std::string text(3 << 20, 'x');
  socket.write(asio::buffer(
      json{{"jsonrpc", "2.0"}, {"id", 0}, {"method", "echo"}, {"params", text}}.dump()));
  beast::flat_buffer message;
  socket.read(message);
  CHECK(json::parse(beast::buffers_to_string(message.data()))["result"]["ok"] == text);
  socket.close(websocket::close_code::none);
}

}  // namespace

TEST_CASE("clients that trust our authority use HTTP and WebSockets over TLS") {
  Folder folder;
  CertificateFiles files = self_made_certificates(folder.path + "/tls", kNames, wall_ms() / 1000);
  Fixture fixture({}, Behaviour::kEchoes, tls_of(files));
  for (const char* name : {"127.0.0.1", "localhost", "::1"}) {
    Client client(files.authority, name);
    use(fixture, client);
  }
}

TEST_CASE("a certificate of another authority, for another name or past its time is refused") {
  Folder folder;
  CertificateFiles own = self_made_certificates(folder.path + "/own", kNames, wall_ms() / 1000);
  CertificateFiles other = self_made_certificates(folder.path + "/other", kNames, wall_ms() / 1000);
  Fixture fixture({}, Behaviour::kEchoes, tls_of(own));
  Client stranger(other.authority);
  CHECK_FALSE(stranger.connect(fixture).has_value());
  CHECK(stranger.error.message().find("certificate verify failed") != std::string::npos);
  Client misled(own.authority, "example.com");
  CHECK_FALSE(misled.connect(fixture).has_value());
  // What was valid a hundred days ago.
  CertificateFiles old =
      self_made_certificates(folder.path + "/old", kNames, wall_ms() / 1000 - 100 * kDay);
  Fixture late({}, Behaviour::kEchoes, tls_of(old));
  Client client(old.authority);
  CHECK_FALSE(client.connect(late).has_value());
  // And the server goes on.
  Client good(own.authority);
  use(fixture, good);
}

TEST_CASE("below TLS 1.2 there is no connection") {
  Folder folder;
  CertificateFiles files = self_made_certificates(folder.path + "/tls", kNames, wall_ms() / 1000);
  ssl::context server = make_tls_context(files.certificate, files.key);
  CHECK(SSL_CTX_get_min_proto_version(server.native_handle()) == TLS1_2_VERSION);
  Fixture fixture({}, Behaviour::kEchoes, tls_of(files));
  for (int version : {TLS1_VERSION, TLS1_1_VERSION, TLS1_2_VERSION, TLS1_3_VERSION}) {
    Client client(files.authority);
    SSL_CTX* context = client.context.native_handle();
    // At its usual level, the client itself would not offer the old ones.
    SSL_CTX_set_security_level(context, 0);
    REQUIRE(SSL_CTX_set_min_proto_version(context, version) == 1);
    REQUIRE(SSL_CTX_set_max_proto_version(context, version) == 1);
    CAPTURE(version);
    CHECK(client.connect(fixture).has_value() == (version >= TLS1_2_VERSION));
  }
}

TEST_CASE("http/1.1 is what the server speaks; a client that insists on another is refused") {
  Folder folder;
  CertificateFiles files = self_made_certificates(folder.path + "/tls", kNames, wall_ms() / 1000);
  Fixture fixture({}, Behaviour::kEchoes, tls_of(files));
  auto chosen = [&](const std::string& offer) -> std::optional<std::string> {
    Client client(files.authority);
    REQUIRE(SSL_CTX_set_alpn_protos(client.context.native_handle(),
                                    reinterpret_cast<const unsigned char*>(offer.data()),
                                    static_cast<unsigned>(offer.size())) == 0);
    auto stream = client.connect(fixture);
    if (!stream) return std::nullopt;
    const unsigned char* name = nullptr;
    unsigned size = 0;
    SSL_get0_alpn_selected(stream->native_handle(), &name, &size);
    return std::string(reinterpret_cast<const char*>(name), size);
  };
  CHECK(chosen("\x02h2\x08http/1.1") == "http/1.1");
  CHECK_FALSE(chosen("\x02h2").has_value());
}

TEST_CASE("certificates are kept, and made anew when they end soon, lack a name or are broken") {
  Folder parent;
  std::string folder = parent.path + "/tls";
  int64_t now = wall_ms() / 1000;
  CertificateFiles files = self_made_certificates(folder, kNames, now);
  for (const char* name : {"/authority-key.pem", "/server-key.pem"})
    CHECK(mode(folder + name) == 0600);
  CHECK(mode(folder) == 0700);
  std::string authority = content(files.authority), server = content(files.certificate);
  auto again = [&](int64_t time, const std::vector<std::string>& names) {
    std::string old = content(files.certificate);
    self_made_certificates(folder, names, time);
    return content(files.certificate) != old;
  };
  CHECK_FALSE(again(now, kNames));
  CHECK_FALSE(again(now + 59 * kDay, kNames));
  CHECK(again(now + 61 * kDay, kNames));
  CHECK(content(files.authority) == authority);
  CHECK(again(now, {"localhost", "example.com"}));
  CHECK_FALSE(again(now, {"example.com"}));
  CHECK(again(now, {"localhost", "192.0.2.1"}));
  REQUIRE(::truncate(files.key.c_str(), 20) == 0);
  CHECK(again(now, kNames));
  CHECK(content(files.authority) == authority);
  // A new authority, whose old certificates nobody would trust.
  REQUIRE(::unlink((folder + "/authority-key.pem").c_str()) == 0);
  CHECK(again(now, kNames));
  CHECK(content(files.authority) != authority);
  authority = content(files.authority);
  CHECK(again(now + 3600 * kDay, kNames));
  CHECK(content(files.authority) != authority);
}

TEST_CASE("a renewed certificate is used without a restart, and a broken one is not") {
  Folder folder;
  auto files = std::make_shared<CertificateFiles>(
      self_made_certificates(folder.path + "/one", kNames, wall_ms() / 1000));
  Fixture fixture({}, Behaviour::kEchoes,
                  [files] { return make_tls_context(files->certificate, files->key); });
  Client one(files->authority);
  use(fixture, one);
  *files = self_made_certificates(folder.path + "/two", kNames, wall_ms() / 1000);
  fixture.on_server([](Server& server) { server.renew_tls(); });
  Client two(files->authority);
  use(fixture, two);
  CHECK_FALSE(one.connect(fixture).has_value());
  REQUIRE(::truncate(files->certificate.c_str(), 10) == 0);
  fixture.on_server([](Server& server) { server.renew_tls(); });
  use(fixture, two);
}

TEST_CASE("what is no certificate, or another's key, is named") {
  Folder folder;
  CertificateFiles one = self_made_certificates(folder.path + "/one", kNames, wall_ms() / 1000);
  CertificateFiles two = self_made_certificates(folder.path + "/two", kNames, wall_ms() / 1000);
  auto message = [](const std::string& certificate, const std::string& key) -> std::string {
    try {
      make_tls_context(certificate, key);
      return "";
    } catch (const std::runtime_error& error) {
      return error.what();
    }
  };
  CHECK(message(one.certificate, one.key).empty());
  CHECK(message(one.key, one.key).find("tls_cert " + one.key) == 0);
  CHECK(message("/absent", one.key).find("tls_cert /absent") == 0);
  CHECK(message(one.certificate, two.key).find("tls_key " + two.key) == 0);
}

TEST_CASE("the names of a certificate are those under which clients come") {
  Config config;
  CHECK(server_names(config) == kNames);
  config.listen = "192.0.2.7";
  config.public_url = "https://boxes.example.com:8443";
  CHECK(server_names(config) == std::vector<std::string>{"localhost", "127.0.0.1", "::1",
                                                         "192.0.2.7", "boxes.example.com"});
  config.public_url = "https://[2001:db8::1]:8443";
  CHECK(server_names(config).back() == "2001:db8::1");
}

TEST_CASE("with a certificate of our own, the printed block makes Deno and Node trust it") {
  Folder parent;
  std::string path = parent.path + "/it's";
  DataFolder folder(path);
  Config config;
  config.tls_self_made = true;
  std::string block = folder.write_environment(config, "t", path + "/tls/authority.pem");
  std::string quoted = parent.path + "/it'\\''s/tls/authority.pem";
  CHECK(block ==
        "export DENO_DEPLOY_TOKEN='t'\n"
        "export DENO_DEPLOY_ENDPOINT='https://127.0.0.1:7777'\n"
        "export DENO_SANDBOX_ENDPOINT='https://127.0.0.1:7777'\n"
        "export DENO_CERT='" +
            quoted + "'\nexport NODE_EXTRA_CA_CERTS='" + quoted + "'\n");
}
