// The server over a loopback socket, with sandboxes that are no machines: their service sends each
// message back as the answer to its id.
#include "control/server.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <boost/asio/connect.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/websocket.hpp>
#include <map>
#include <nlohmann/json.hpp>
#include <thread>

#include "control/clock.h"
#include "control/framing.h"
#include "control/ids.h"
#include "control/openapi.h"
#include "control/tokens.h"

using namespace hutch::control;
using nlohmann::json;
namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
namespace websocket = beast::websocket;
using asio::ip::tcp;

namespace {

// Takes at most 1000 bytes at a time, as a guest with little credit does.
class FakeChannel final : public Channel {
 public:
  FakeChannel(asio::io_context& context, ChannelEvents& events)
      : context_(context), events_(events) {}
  ~FakeChannel() override { *gone_ = true; }

  size_t write(std::span<const std::byte> bytes) override {
    size_t taken = std::min<size_t>(bytes.size(), 1000);
    input_.append(reinterpret_cast<const char*>(bytes.data()), taken);
    asio::post(context_, [this, gone = gone_] {
      if (*gone) return;
      answer();
      if (!*gone) events_.on_writable();
    });
    return taken;
  }

 private:
  void answer() {
    std::string message;
    size_t at = 0;
    for (;;) {
      if (input_.size() - at < kPieceHead) return;
      auto byte = [&](size_t i) {
        return static_cast<uint32_t>(static_cast<unsigned char>(input_[at + i]));
      };
      uint32_t head = byte(0) | byte(1) << 8 | byte(2) << 16 | byte(3) << 24;
      size_t size = head & 0x7fffffff;
      if (input_.size() - at < kPieceHead + size) return;
      message += input_.substr(at + kPieceHead, size);
      at += kPieceHead + size;
      if ((head >> 31) == 0) break;
    }
    input_.erase(0, at);
    json request = json::parse(message);
    std::string method = request.value("method", "");
    if (method == "die") return events_.on_closed();
    std::string text = method == "nonsense"
                           ? "{}"
                           : fmt::format(R"({{"jsonrpc":"2.0","id":{},"result":{{"ok":{}}}}})",
                                         request["id"].dump(), request["params"].dump());
    std::string output;
    for (size_t start = 0; start < text.size(); start += kMaxPiece) {
      std::string part = text.substr(start, kMaxPiece);
      auto head = piece_head(part.size(), start + part.size() < text.size());
      output.append(reinterpret_cast<const char*>(head.data()), head.size());
      output += part;
    }
    auto owner = std::make_shared<std::string>(std::move(output));
    events_.on_output({*owner, owner});
  }

  asio::io_context& context_;
  ChannelEvents& events_;
  std::string input_;
  std::shared_ptr<bool> gone_ = std::make_shared<bool>(false);
};

class FakeGuest final : public Guest {
 public:
  FakeGuest(asio::io_context& context, GuestEvents& events, bool starts)
      : context_(context), events_(events) {
    asio::post(context_, [this, starts, gone = gone_] {
      if (*gone) return;
      if (starts) {
        events_.on_ready();
      } else {
        events_.on_ended("the fake does not start");
      }
    });
  }
  ~FakeGuest() override { *gone_ = true; }
  std::unique_ptr<Channel> open_channel(ChannelEvents& events, uint64_t) override {
    return std::make_unique<FakeChannel>(context_, events);
  }
  void end() override {
    asio::post(context_, [this, gone = gone_] {
      if (!*gone) events_.on_ended("asked to");
    });
  }

 private:
  asio::io_context& context_;
  GuestEvents& events_;
  std::shared_ptr<bool> gone_ = std::make_shared<bool>(false);
};

// A server in a thread of its own.
class Fixture {
 public:
  explicit Fixture(Config wanted = {}, bool starts = true) : config(std::move(wanted)) {
    token = create_token(store, false, "", {"local"}, {}).text;
    other_token = create_token(store, false, "", {"other"}, {}).text;
    thread_ = std::thread([this] { context_.run(); });
    starts_ = starts;
  }
  ~Fixture() {
    asio::post(context_, [this] {
      server_.stop();
      sandboxes_.end_all("the test ends", [this] { context_.stop(); });
    });
    thread_.join();
  }
  Fixture(const Fixture&) = delete;
  Fixture& operator=(const Fixture&) = delete;

  struct Answer {
    unsigned status;
    json body;
  };
  Answer request(http::verb verb, const std::string& target, const std::string& body = "",
                 const std::string& with = "own") {
    tcp::socket socket = connect();
    http::request<http::string_body> request(verb, target, 11);
    request.set("Authorization", "Bearer " + (with == "own" ? token : with));
    request.body() = body;
    request.prepare_payload();
    http::write(socket, request);
    beast::flat_buffer buffer;
    http::response<http::string_body> response;
    http::read(socket, buffer, response);
    return {response.result_int(), json::parse(response.body())};
  }
  tcp::socket connect() {
    tcp::socket socket(client_);
    socket.connect(tcp::endpoint(asio::ip::make_address("127.0.0.1"), server_.port()));
    return socket;
  }

  std::string token, other_token;
  Config config;

 private:
  asio::io_context context_{1}, client_{1};
  bool starts_ = true;

 public:
  Store store{":memory:"};

 private:
  Sandboxes sandboxes_{context_, config, store, [this](const GuestOptions&, GuestEvents& events) {
                         return std::make_unique<FakeGuest>(context_, events, starts_);
                       }};
  Server server_{context_, Services{config, store, sandboxes_}, "127.0.0.1", 0};
  std::thread thread_;
};

// A client's WebSocket; what is refused is in `status` and `problem`.
class Socket {
 public:
  Socket(Fixture& fixture, const std::string& path, const json& config = nullptr,
         const std::string& with = "own")
      : socket_(fixture.connect()) {
    auto decorate = [&](auto& request) {
      request.set("Authorization", "Bearer " + (with == "own" ? fixture.token : with));
      if (!config.is_null()) {
        std::string text = config.dump();
        std::string encoded(beast::detail::base64::encoded_size(text.size()), '\0');
        encoded.resize(beast::detail::base64::encode(encoded.data(), text.data(), text.size()));
        request.set("x-deno-sandbox-config", encoded);
      }
    };
    socket_.set_option(websocket::stream_base::decorator(
        [&](websocket::request_type& request) { decorate(request); }));
    boost::system::error_code error;
    http::response<http::string_body> response;
    socket_.handshake(response, "127.0.0.1", path, error);
    id = std::string(response["x-deno-sandbox-id"]);
    status = 101;
    if (!error) return;
    // Beast keeps the answer that refuses to itself: ask once more.
    tcp::socket again = fixture.connect();
    http::request<http::string_body> request(http::verb::get, path, 11);
    request.set("Connection", "Upgrade");
    request.set("Upgrade", "websocket");
    request.set("Sec-WebSocket-Version", "13");
    request.set("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
    decorate(request);
    http::write(again, request);
    beast::flat_buffer buffer;
    http::response<http::string_body> refusal;
    http::read(again, buffer, refusal);
    status = refusal.result_int();
    problem = json::parse(refusal.body());
  }
  json call(int number, const std::string& method, const json& params) {
    send(json{{"jsonrpc", "2.0"}, {"id", number}, {"method", method}, {"params", params}}.dump());
    return json::parse(read());
  }
  void send(const std::string& text) {
    socket_.text(true);
    socket_.write(asio::buffer(text));
  }
  std::string read() {
    beast::flat_buffer buffer;
    socket_.read(buffer);
    return beast::buffers_to_string(buffer.data());
  }
  // The code with which the server closes.
  unsigned closed() {
    beast::flat_buffer buffer;
    boost::system::error_code error;
    while (!error) socket_.read(buffer, error);
    CHECK(error == websocket::error::closed);
    return socket_.reason().code;
  }
  void close() { socket_.close(websocket::close_code::none); }

  unsigned status = 0;
  std::string id;
  json problem;

 private:
  websocket::stream<tcp::socket> socket_;
};

const char* kCreate = "/api/v3/sandboxes/create";

}  // namespace

TEST_CASE("a sandbox is created, answers calls and pings, and is there for a second connection") {
  Fixture fixture;
  Socket socket(fixture, kCreate, json{{"memory_mb", 1280}, {"labels", {{"a", "b"}}}});
  REQUIRE(socket.status == 101);
  CHECK(is_sandbox_id(socket.id));
  json answer = socket.call(0, "echo", {{"x", 1}});
  CHECK(answer == json{{"jsonrpc", "2.0"}, {"id", 0}, {"result", {{"ok", {{"x", 1}}}}}});
  socket.send("ping");
  CHECK(socket.read() == "pong");
  Socket second(fixture, "/api/v3/sandbox/" + socket.id + "/connect");
  REQUIRE(second.status == 101);
  CHECK(second.id == socket.id);
  CHECK(second.call(7, "echo", "y")["result"]["ok"] == "y");
}

TEST_CASE("messages larger than what is held pass both ways") {
  Fixture fixture;
  Socket socket(fixture, kCreate);
  std::string text(3 << 20, 'x');
  CHECK(socket.call(1, "echo", text)["result"]["ok"] == text);
  CHECK(socket.call(2, "echo", 2)["result"]["ok"] == 2);
}

TEST_CASE("what is no answer does not reach the client") {
  Fixture fixture;
  Socket socket(fixture, kCreate);
  socket.send(R"({"jsonrpc":"2.0","id":1,"method":"nonsense","params":0})");
  CHECK(socket.call(2, "echo", 5)["id"] == 2);
}

TEST_CASE("a session sandbox ends with its creator's connection, a second one with it") {
  Fixture fixture;
  Socket socket(fixture, kCreate);
  Socket second(fixture, "/api/v3/sandbox/" + socket.id + "/connect");
  socket.close();
  CHECK(second.closed() == 1001);
  Socket late(fixture, "/api/v3/sandbox/" + socket.id + "/connect");
  CHECK(late.status == 400);
  CHECK(late.problem["code"] == "SANDBOX_ALREADY_TERMINATED");
  Fixture::Answer list = fixture.request(http::verb::get, "/api/v2/sandboxes");
  CHECK(list.body[0]["status"] == "stopped");
  CHECK(list.body[0]["stoppedAt"].is_string());
}

TEST_CASE("a sandbox with a deadline outlives its creator and ends at the deadline") {
  Fixture fixture;
  Socket socket(fixture, kCreate, json{{"stop_at_ms", wall_ms() + 400}});
  socket.close();
  Socket second(fixture, "/api/v3/sandbox/" + socket.id + "/connect");
  REQUIRE(second.status == 101);
  CHECK(second.closed() == 1001);
}

TEST_CASE("a deadline is moved, at most as far as the server allows") {
  Config config;
  config.max_lifetime_s = 100;
  Fixture fixture(config);
  Socket socket(fixture, kCreate, json{{"stop_at_ms", wall_ms() + 300}});
  std::string path = "/api/v3/sandbox/" + socket.id;
  int64_t wanted = wall_ms() + 50'000;
  Fixture::Answer answer =
      fixture.request(http::verb::patch, path, json{{"stop_at_ms", wanted}}.dump());
  CHECK(answer.status == 200);
  CHECK(answer.body["stop_at_ms"] == wanted);
  answer = fixture.request(http::verb::patch, path, R"({"stop_at_ms":9007199254740991})");
  CHECK(answer.body["stop_at_ms"].get<int64_t>() <= wall_ms() + 100'000);
  std::this_thread::sleep_for(std::chrono::milliseconds(400));
  CHECK(socket.call(1, "echo", 1)["result"]["ok"] == 1);
  CHECK(fixture.request(http::verb::patch, path, R"({"stop_at_ms":"soon"})").body["code"] ==
        "INVALID_BODY");
}

TEST_CASE("a kill answers, and closes all sockets; a second one changes nothing") {
  Fixture fixture;
  Socket socket(fixture, kCreate);
  std::string path = "/api/v3/sandbox/" + socket.id;
  CHECK(fixture.request(http::verb::delete_, path).status == 200);
  CHECK(socket.closed() == 1001);
  CHECK(fixture.request(http::verb::delete_, path).status == 200);
  CHECK(fixture.request(http::verb::patch, path, R"({"stop_at_ms":1})").body["code"] ==
        "SANDBOX_ALREADY_TERMINATED");
}

TEST_CASE("another's sandbox and one that is not there look the same") {
  Fixture fixture;
  Socket socket(fixture, kCreate);
  std::string absent = new_sandbox_id("loc");
  for (const std::string& id : {socket.id, absent}) {
    for (http::verb verb : {http::verb::delete_, http::verb::patch}) {
      Fixture::Answer answer =
          fixture.request(verb, "/api/v3/sandbox/" + id, "{}", fixture.other_token);
      CHECK(answer.status == 404);
      CHECK(answer.body == json::parse(sandbox_not_found().json()));
    }
    Socket other(fixture, "/api/v3/sandbox/" + id + "/connect", nullptr, fixture.other_token);
    CHECK(other.status == 404);
    CHECK(other.problem == json::parse(sandbox_not_found().json()));
  }
  CHECK(
      fixture.request(http::verb::get, "/api/v2/sandboxes", "", fixture.other_token).body.empty());
}

TEST_CASE("without a valid token nothing is answered but 401 INVALID_TOKEN") {
  Fixture fixture;
  for (const std::string& token :
       {std::string(), std::string("ddo_0"), "ddo_" + std::string(64, '0')}) {
    Fixture::Answer answer = fixture.request(http::verb::get, "/api/v2/sandboxes", "", token);
    CHECK(answer.status == 401);
    CHECK(answer.body["code"] == "INVALID_TOKEN");
    Socket socket(fixture, kCreate, nullptr, token);
    CHECK(socket.status == 401);
    CHECK(socket.problem["code"] == "INVALID_TOKEN");
  }
  CHECK(fixture.request(http::verb::get, "/healthz", "", "x").body["status"] == "ok");
}

TEST_CASE("limits have codes of their own") {
  Config config;
  config.max_sandboxes = 1;
  Fixture fixture(config);
  Socket large(fixture, kCreate, json{{"memory_mb", 100'000}});
  CHECK(large.status == 400);
  CHECK(large.problem["code"] == "MEMORY_OUT_OF_RANGE");
  Socket first(fixture, kCreate);
  CHECK(first.status == 101);
  Socket second(fixture, kCreate);
  CHECK(second.status == 429);
  CHECK(second.problem["code"] == "SANDBOX_LIMIT_REACHED");
  Socket other(fixture, kCreate, nullptr, fixture.other_token);
  CHECK(other.status == 101);
}

TEST_CASE("a machine that does not start is an answer, not a hang") {
  Fixture fixture({}, false);
  Socket socket(fixture, kCreate);
  CHECK(socket.status == 500);
  CHECK(socket.problem["code"] == "SANDBOX_START_FAILED");
}

TEST_CASE("a service that ends closes its socket alone") {
  Fixture fixture;
  Socket socket(fixture, kCreate);
  Socket second(fixture, "/api/v3/sandbox/" + socket.id + "/connect");
  second.send(R"({"jsonrpc":"2.0","id":1,"method":"die"})");
  CHECK(second.closed() == 1011);
  CHECK(socket.call(1, "echo", 1)["result"]["ok"] == 1);
}

TEST_CASE("the list can be narrowed by labels") {
  Fixture fixture;
  Socket one(fixture, kCreate, json{{"labels", {{"env", "a b"}}}});
  Socket two(fixture, kCreate, json{{"labels", {{"env", "c"}}}});
  Fixture::Answer all = fixture.request(http::verb::get, "/api/v2/sandboxes");
  CHECK(all.body.size() == 2);
  Fixture::Answer some =
      fixture.request(http::verb::get, "/api/v2/sandboxes?labels%5Benv%5D=a%20b");
  REQUIRE(some.body.size() == 1);
  CHECK(some.body[0]["id"] == one.id);
  CHECK(some.body[0]["status"] == "running");
  CHECK(some.body[0]["region"] == "loc");
  CHECK(some.body[0]["stoppedAt"].is_null());
  CHECK(some.body[0]["createdAt"].get<std::string>().size() == 24);
}

TEST_CASE("what does not exist yet says so") {
  Fixture fixture;
  Socket socket(fixture, kCreate);
  for (const char* path : {"volumes", "snapshots", "apps", "layers/x", "revisions/x"}) {
    Fixture::Answer answer = fixture.request(http::verb::get, std::string("/api/v2/") + path);
    CHECK(answer.status == 501);
    CHECK(answer.body["code"] == "NOT_SUPPORTED");
  }
  for (const char* what : {"http", "ssh", "vscode"}) {
    Fixture::Answer answer =
        fixture.request(http::verb::post, "/api/v3/sandbox/" + socket.id + "/expose/" + what, "{}");
    CHECK(answer.status == 501);
    CHECK(answer.body["message"].is_string());
  }
  CHECK(fixture.request(http::verb::get, "/api/v3/nonsense").status == 404);
  CHECK(fixture.request(http::verb::get, "/").body["code"] == "NOT_FOUND");
}

TEST_CASE("the description is JSON and names every route of the sandbox host") {
  Fixture fixture;
  json document = fixture.request(http::verb::get, "/openapi.json").body;
  CHECK(document == json::parse(openapi_document()));
  CHECK(document["openapi"] == "3.1.0");
  for (const char* path : {"/api/v3/sandboxes/create", "/api/v3/sandbox/{id}/connect",
                           "/api/v3/sandbox/{id}", "/api/v2/sandboxes"})
    CHECK(document["paths"].contains(path));
}
