// fetch against servers that say what a test tells them to, byte by byte.
#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <mutex>
#include <thread>

#include "base/fd.h"
#include "guest-agent/rpc/rpc_client.h"

namespace hutch::agent::rpc {
namespace {

// Answers one connection after the other with the next of `answers`.
class Server {
 public:
  // `holds`: connections stay open behind the answer.
  explicit Server(std::vector<std::string> answers, bool holds = false)
      : answers_(std::move(answers)), holds_(holds) {
    listener_ = Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = ::htonl(INADDR_LOOPBACK);
    auto* general = reinterpret_cast<sockaddr*>(&address);
    socklen_t size = sizeof address;
    REQUIRE(::bind(listener_.get(), general, size) == 0);
    REQUIRE(::listen(listener_.get(), 8) == 0);
    REQUIRE(::getsockname(listener_.get(), general, &size) == 0);
    port_ = ::ntohs(address.sin_port);
    thread_ = std::thread([this] { serve(); });
  }
  ~Server() {
    ::shutdown(listener_.get(), SHUT_RDWR);
    thread_.join();
  }

  std::string url(const std::string& path = "/") const {
    return "http://127.0.0.1:" + std::to_string(port_) + path;
  }
  std::string request(size_t index) {
    std::lock_guard guard(mutex_);
    return index < requests_.size() ? requests_[index] : "";
  }

 private:
  void serve() {
    std::vector<Fd> held;
    for (const std::string& answer : answers_) {
      Fd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (!socket) return;
      std::string request;
      char buffer[4096];
      size_t body = 0;
      for (;;) {
        size_t head = request.find("\r\n\r\n");
        size_t length = request.find("Content-Length: ");
        if (length != request.npos) body = std::stoul(request.substr(length + 16));
        if (head != request.npos && request.size() >= head + 4 + body) break;
        ssize_t count = ::recv(socket.get(), buffer, sizeof buffer, 0);
        if (count <= 0) break;
        request.append(buffer, static_cast<size_t>(count));
      }
      {
        std::lock_guard guard(mutex_);
        requests_.push_back(request);
      }
      ::send(socket.get(), answer.data(), answer.size(), MSG_NOSIGNAL);
      if (holds_) held.push_back(std::move(socket));
    }
    // Until the destructor ends it.
    Fd last(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  }

  const std::vector<std::string> answers_;
  const bool holds_;
  Fd listener_;
  uint16_t port_ = 0;
  std::mutex mutex_;
  std::vector<std::string> requests_;
  std::thread thread_;
};

Json headers(std::initializer_list<std::pair<const char*, const char*>> list) {
  Json all = Json::array();
  for (const auto& [name, value] : list) all.push_back({name, value});
  return all;
}

bool has_header(const Json& response, const char* name, const std::string& value) {
  for (const Json& header : response["headers"]) {
    if (header == Json{name, value}) return true;
  }
  return false;
}

TEST_CASE("a response comes as the server sent it") {
  Sandbox sandbox;
  RpcClient client(sandbox);
  Server server(
      {"HTTP/1.1 299 Fine \xe9\r\nx-latin: caf\xe9\r\nX-Empty:\r\nset-cookie: a\r\n"
       "set-cookie: b\r\ntransfer-encoding: chunked\r\n\r\n"
       "5\r\nhello\r\n0\r\nx-trailer: 1\r\n\r\n"});
  Json response = client.call(
      "fetch", {{"url", server.url("/a?b#c")},
                {"method", "GET"},
                {"headers", headers({{"X-Own", "\xc3\xbc"}, {"x-empty", ""}, {"accept", "x/y"}})}});
  CHECK(response["status"] == 299);
  CHECK(response["statusText"] == "Fine \xc3\xa9");
  CHECK(has_header(response, "x-latin", "caf\xc3\xa9"));
  CHECK(has_header(response, "X-Empty", ""));
  CHECK(has_header(response, "set-cookie", "a"));
  CHECK(has_header(response, "set-cookie", "b"));
  CHECK_FALSE(has_header(response, "transfer-encoding", "chunked"));
  CHECK(client.wait_stream(response["bodyStreamId"]).bytes == "hello");
  std::string request = server.request(0);
  CHECK(request.starts_with("GET /a?b HTTP/1.1\r\n"));
  CHECK(request.find("\r\nX-Own: \xfc\r\n") != request.npos);
  CHECK(request.find("\r\nx-empty:\r\n") != request.npos);
  CHECK(request.find("\r\naccept: x/y\r\n") != request.npos);
}

TEST_CASE("a response that is encoded comes decoded") {
  Sandbox sandbox;
  RpcClient client(sandbox);
  // What gzip makes of "packed and unpacked".
  const std::string text(
      "\037\213\010\000\000\000\000\000\002\377\053\110\114\316\116\115\121\110\314"
      "\113\121\050\315\053\000\163\000\370\012\251\372\023\000\000\000",
      35);
  Server server({"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: " +
                 std::to_string(text.size()) + "\r\n\r\n" + text});
  Json response = client.call("fetch", {{"url", server.url()}});
  CHECK_FALSE(has_header(response, "content-encoding", "gzip"));
  CHECK_FALSE(has_header(response, "content-length", "35"));
  CHECK(client.wait_stream(response["bodyStreamId"]).bytes == "packed and unpacked");
}

TEST_CASE("responses without a body have no stream") {
  Sandbox sandbox;
  RpcClient client(sandbox);
  Server server({"HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 304 Not Modified\r\n\r\n",
                 "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"});
  CHECK(client.call("fetch", {{"url", server.url()}})["bodyStreamId"].is_null());
  CHECK(client.call("fetch", {{"url", server.url()}})["bodyStreamId"].is_null());
  Json head = client.call("fetch", {{"url", server.url()}, {"method", "HEAD"}});
  CHECK(head["bodyStreamId"].is_null());
  CHECK(has_header(head, "content-length", "5"));
}

TEST_CASE("a redirect is followed as the fetch standard says") {
  Sandbox sandbox;
  RpcClient client(sandbox);
  Server other({"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"});
  Server server({"HTTP/1.1 307 Again\r\nlocation: /next\r\ncontent-length: 4\r\n\r\nbody",
                 "HTTP/1.1 302 Found\r\nlocation: " + other.url("/there") + "\r\n\r\n"});
  client.start_stream(1);
  client.send_chunk(1, "posted");
  client.end_stream(1);
  Json response = client.call(
      "fetch", {{"url", server.url("/first")},
                {"method", "POST"},
                {"headers",
                 headers({{"authorization", "secret"}, {"content-type", "a/b"}, {"x-kept", "1"}})},
                {"redirect", "follow"},
                {"bodyStreamId", 1}});
  CHECK(client.wait_stream(response["bodyStreamId"]).bytes == "ok");
  CHECK(server.request(1).starts_with("POST /next HTTP/1.1\r\n"));
  CHECK(server.request(1).ends_with("\r\n\r\nposted"));
  CHECK(server.request(1).find("authorization: secret") != std::string::npos);
  CHECK(other.request(0).starts_with("GET /there HTTP/1.1\r\n"));
  CHECK(other.request(0).find("x-kept: 1") != std::string::npos);
  CHECK(other.request(0).find("secret") == std::string::npos);
  CHECK(other.request(0).find("a/b") == std::string::npos);

  // The body of a redirect is read by nobody, and may be long.
  Server target({"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"});
  Server long_one({"HTTP/1.1 302 Found\r\nlocation: " + target.url("/there") +
                   "\r\ncontent-length: 300000\r\n\r\n" + std::string(300'000, 'x')});
  response = client.call("fetch", {{"url", long_one.url()}, {"redirect", "follow"}});
  CHECK(client.wait_stream(response["bodyStreamId"]).bytes == "ok");

  std::vector<std::string> loop(25, "HTTP/1.1 302 Found\r\nlocation: /\r\n\r\n");
  Server endless(loop);
  CHECK(client.error("fetch", {{"url", endless.url()}}) == "TypeError");
  CHECK(client.last_message().find("redirects") != std::string::npos);
  Server manual({loop[0]});
  response = client.call("fetch", {{"url", manual.url()}, {"redirect", "manual"}});
  CHECK(response["status"] == 302);
  CHECK(has_header(response, "location", "/"));
}

TEST_CASE("a body comes while the server still sends it, until the client aborts") {
  Sandbox sandbox;
  RpcClient client(sandbox);
  Server server({"HTTP/1.1 200 OK\r\n\r\nfirst"}, true);
  Json id = client.call("fetch", {{"url", server.url()}, {"abortId", 4}})["bodyStreamId"];
  CHECK(client.wait_for([&] { return client.stream(id).bytes == "first"; }));
  CHECK_FALSE(client.stream(id).ended);
  CHECK(client.call("abort", {{"abortId", 4}}) == nullptr);
  Json error = client.wait_stream(id).error;
  CHECK(error["constructorName"] == "DOMException");
  CHECK(error["name"] == "AbortError");
  CHECK_FALSE(error.contains("code"));
  CHECK(client.call("abort", {{"abortId", 4}}) == nullptr);

  Server silent({""}, true);
  int call = client.send("fetch", {{"url", silent.url()}, {"abortId", 5}});
  CHECK(eventually([&] { return !silent.request(0).empty(); }));
  CHECK(client.call("abort", {{"abortId", 5}}) == nullptr);
  CHECK(client.wait(call)["error"]["name"] == "AbortError");
  // While the request's body still comes.
  client.start_stream(9);
  call = client.send("fetch", {{"url", silent.url()}, {"abortId", 6}, {"bodyStreamId", 9}});
  CHECK(client.call("abort", {{"abortId", 6}}) == nullptr);
  CHECK(client.wait(call)["error"]["name"] == "AbortError");
  REQUIRE(client.wait_for([&] { return client.cancels().size() == 1; }));
  CHECK(client.cancels()[0]["streamId"] == 9);
}

TEST_CASE("what is no HTTP is an error") {
  Sandbox sandbox;
  RpcClient client(sandbox);
  Server server({"SSH-2.0-x\r\n", "HTTP/1.1 200 OK\r\nbad header: 1\r\n\r\n",
                 "HTTP/1.1 200 OK\r\n" + std::string(290'000, 'x') + ": 1\r\n\r\n",
                 "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort"});
  for (int i = 0; i < 3; i++) CHECK(client.error("fetch", {{"url", server.url()}}) == "TypeError");
  Json response = client.call("fetch", {{"url", server.url()}});
  CHECK(client.wait_stream(response["bodyStreamId"]).error["constructorName"] == "TypeError");
  CHECK(client.stream(response["bodyStreamId"]).bytes == "short");
  CHECK(client.error("fetch", {{"url", "file:///etc/passwd"}}) == "TypeError");
  CHECK(client.error("fetch", {{"url", "-o/tmp/x"}}) == "TypeError");
  CHECK(client.error("fetch", {{"url", server.url()},
                               {"headers", headers({{"x", "\xe2\x82\xac"}})}}) == "TypeError");
  CHECK(client.error("fetch", {{"url", server.url()}, {"headers", {{"x", "y"}}}}) == "TypeError");
  CHECK(client.error("fetch", {{"url", server.url()}, {"bodyStreamId", 77}}) == "TypeError");
}

}  // namespace
}  // namespace hutch::agent::rpc
