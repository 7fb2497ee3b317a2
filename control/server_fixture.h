// A server over a loopback socket, for tests, with sandboxes that are no machines: their service
// sends each message back as the answer to its id.
#pragma once

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <atomic>
#include <boost/asio/connect.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/websocket.hpp>
#include <filesystem>
#include <functional>
#include <future>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "control/framing.h"
#include "control/server.h"
#include "control/templates.h"
#include "control/tokens.h"
#include "event-log/event_log.h"

namespace hutch::control::testing {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
namespace websocket = beast::websocket;
using asio::ip::tcp;
using nlohmann::json;

inline constexpr const char* kCreate = "/api/v3/sandboxes/create";

// What the service of a fake sandbox does.
enum class Behaviour {
  kEchoes,  // answers each message with what it says
  kFailsToStart,
  kTakesNothing,
  kDiscards,  // takes all and says nothing
  kFloods,    // sends chunks of a stream as fast as it gets credit
  kNeverEnds,
  kStartsSlowly,  // in a tenth of a second
  kNeverStarts,
  kCannotBeSaved,
};

// What the fakes of a fixture count together.
struct Counts {
  std::atomic<uint64_t> sent{0};  // bytes, by those that flood
  std::atomic<int> starting{0}, most_starting{0}, forks{0}, paused{0}, saved{0};
};

// Takes at most 1000 bytes at a time, as a guest with little credit does.
class FakeChannel final : public Channel {
 public:
  FakeChannel(asio::io_context& context, ChannelEvents& events, Behaviour behaviour,
              uint64_t stream_base, Counts& counts)
      : context_(context),
        events_(events),
        behaviour_(behaviour),
        stream_(stream_base),
        counts_(counts) {
    if (behaviour_ == Behaviour::kFloods) flood_later();
  }
  ~FakeChannel() override { *gone_ = true; }

  size_t write(std::span<const std::byte> bytes) override {
    if (behaviour_ == Behaviour::kTakesNothing) return 0;
    if (behaviour_ != Behaviour::kEchoes && behaviour_ != Behaviour::kCannotBeSaved)
      return bytes.size();
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
    std::vector<std::string_view> pieces;
    size_t at = 0;
    for (;;) {
      if (input_.size() - at < kPieceHead) return;
      auto byte = [&](size_t i) {
        return static_cast<uint32_t>(static_cast<unsigned char>(input_[at + i]));
      };
      uint32_t head = byte(0) | byte(1) << 8 | byte(2) << 16 | byte(3) << 24;
      size_t size = head & 0x7fffffff;
      if (input_.size() - at < kPieceHead + size) return;
      pieces.push_back(std::string_view(input_).substr(at + kPieceHead, size));
      at += kPieceHead + size;
      if ((head >> 31) == 0) break;
    }
    std::string message;
    for (std::string_view piece : pieces) message += piece;
    input_.erase(0, at);
    json request = json::parse(message, nullptr, false);
    if (request.is_discarded()) return;
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

  // As the agent: what is not freed yet is credit that is used up.
  void flood_later() {
    asio::post(context_, [this, gone = gone_] {
      if (*gone || *unfreed_ >= kCredit) return;
      std::string text = stream_message(counts_.sent == 0 ? "start" : "enqueue");
      counts_.sent += text.size();
      auto head = piece_head(text.size(), false);
      text.insert(0, reinterpret_cast<const char*>(head.data()), head.size());
      ++*unfreed_;
      std::shared_ptr<std::string> owner(new std::string(std::move(text)),
                                         [this, gone, unfreed = unfreed_](std::string* bytes) {
                                           delete bytes;
                                           --*unfreed;
                                           if (!*gone) flood_later();
                                         });
      events_.on_output({*owner, owner});
      if (!*gone) flood_later();
    });
  }
  std::string stream_message(const char* name) const {
    json params{{"streamId", stream_}};
    if (name == std::string("enqueue")) params["data"] = std::string(64 * 1024, 'A');
    return json{
        {"jsonrpc", "2.0"}, {"method", std::string("$sandbox.stream.") + name}, {"params", params}}
        .dump();
  }

  static constexpr int kCredit = 4;

  asio::io_context& context_;
  ChannelEvents& events_;
  Behaviour behaviour_;
  uint64_t stream_;
  Counts& counts_;
  std::string input_;
  std::shared_ptr<int> unfreed_ = std::make_shared<int>(0);
  std::shared_ptr<bool> gone_ = std::make_shared<bool>(false);
};

class FakeGuest final : public Guest {
 public:
  FakeGuest(asio::io_context& context, const GuestOptions& options, GuestEvents& events,
            Behaviour behaviour, const NetworkLogs& logs, Templates& templates, Counts& counts)
      : context_(context),
        events_(events),
        behaviour_(behaviour),
        path_(!options.from        ? Path::kBoot
              : options.is_restore ? Path::kRestore
                                   : Path::kFork),
        templates_(templates),
        counts_(counts),
        timer_(context,
               std::chrono::milliseconds(behaviour == Behaviour::kStartsSlowly ? 100 : 0)) {
    if (options.from) counts_.forks++;
    if (options.egress) {
      log_.emplace(event_log::EventLog::open(logs.create(options.sandbox_id)).value());
      log("start", "");
    }
    counts_.most_starting = std::max<int>(counts_.most_starting, ++counts_.starting);
    timer_.async_wait([this, gone = gone_](boost::system::error_code error) {
      if (*gone || error || behaviour_ == Behaviour::kNeverStarts) return;
      started();
      if (behaviour_ != Behaviour::kFailsToStart) {
        events_.on_ready({path_});
      } else {
        events_.on_ended("the fake does not start");
      }
    });
  }
  ~FakeGuest() override {
    started();
    *gone_ = true;
  }
  std::unique_ptr<Channel> open_channel(ChannelEvents& events, uint64_t stream_base) override {
    return std::make_unique<FakeChannel>(context_, events, behaviour_, stream_base, counts_);
  }
  void set_policy(const policy::Policy& policy) override {
    log("policy", policy.patterns().empty() ? "" : policy.patterns().front());
    if (!policy.allows_all() && policy.knows("refused.test"))
      throw Problem(500, "INTERNAL_ERROR", "the fake takes no such policy");
  }
  void save(Saved done) override {
    bool fails = behaviour_ == Behaviour::kCannotBeSaved;
    counts_.saved++;
    asio::post(context_, [done = std::move(done), fails, this] {
      done(fails ? nullptr : templates_.finish_own(templates_.begin_own()));
    });
  }
  void set_paused(bool paused, std::function<void(bool)> done) override {
    bool good = behaviour_ != Behaviour::kCannotBeSaved;
    counts_.paused += !good ? 0 : paused ? 1 : -1;
    asio::post(context_, [done = std::move(done), good] { done(good); });
  }
  void end() override {
    if (behaviour_ == Behaviour::kNeverEnds) return;
    asio::post(context_, [this, gone = gone_] {
      if (!*gone) events_.on_ended("asked to");
    });
  }

 private:
  void started() {
    if (std::exchange(starting_, false)) counts_.starting--;
  }
  void log(const std::string& event, const std::string& rule) {
    std::string members = fmt::format(R"("event":"{}","rule":"{}")", event, rule);
    if (!log_ || !log_->append(1, members)) throw std::runtime_error("the fake has no log");
  }

  asio::io_context& context_;
  GuestEvents& events_;
  Behaviour behaviour_;
  Path path_;
  Templates& templates_;
  Counts& counts_;
  asio::steady_timer timer_;
  bool starting_ = true;
  std::optional<event_log::EventLog> log_;
  std::shared_ptr<bool> gone_ = std::make_shared<bool>(false);
};

// A server in a thread of its own.
class Fixture {
 public:
  explicit Fixture(Config wanted = {}, Behaviour behaviour = Behaviour::kEchoes,
                   Server::MakeTls make_tls = {})
      : config(std::move(wanted)), behaviour_(behaviour), make_tls_(std::move(make_tls)) {
    token = create_token(store, false, "", {"local"}, {}).text;
    other_token = create_token(store, false, "", {"other"}, {}).text;
    thread_ = std::thread([this] { context_.run(); });
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
    std::map<std::string, std::string> headers;  // names in lower case
  };
  Answer request(http::verb verb, const std::string& target, const std::string& body = "",
                 const std::string& with = "own", const std::string& organisation = "") {
    tcp::socket socket = connect();
    http::request<http::string_body> request(verb, target, 11);
    request.set("Authorization", "Bearer " + (with == "own" ? token : with));
    if (!organisation.empty()) request.set("X-Deno-Org", organisation);
    request.body() = body;
    request.prepare_payload();
    http::write(socket, request);
    beast::flat_buffer buffer;
    http::response<http::string_body> response;
    http::read(socket, buffer, response);
    Answer answer{response.result_int(), json::parse(response.body()), {}};
    for (const auto& field : response) {
      std::string name(field.name_string());
      std::transform(name.begin(), name.end(), name.begin(), ::tolower);
      std::string& value = answer.headers[name];
      value += (value.empty() ? "" : ", ") + std::string(field.value());
    }
    return answer;
  }
  tcp::socket connect() {
    tcp::socket socket(client_);
    socket.connect(tcp::endpoint(asio::ip::make_address("127.0.0.1"), server_.port()));
    return socket;
  }

  // On the server's thread; returns when it is done.
  void on_server(std::function<void(Server&)> action) {
    std::promise<void> done;
    asio::post(context_, [&] {
      action(server_);
      done.set_value();
    });
    done.get_future().wait();
  }

  uint16_t port() const { return server_.port(); }

  std::string token, other_token;
  Counts counts;
  Config config;

 private:
  struct TemporaryFolder {
    std::string path = "/tmp/hutch-events-XXXXXX";
    TemporaryFolder() { REQUIRE(::mkdtemp(path.data()) != nullptr); }
    ~TemporaryFolder() { std::filesystem::remove_all(path); }
  } folder_;
  NetworkLogs logs_{folder_.path};
  Behaviour behaviour_;
  Server::MakeTls make_tls_;
  asio::io_context context_{1}, client_{1};

 public:
  Store store{":memory:"};

 private:
  Templates templates_{context_, folder_.path + "/templates", {}, true};
  Snapshots snapshots_{context_,
                       folder_.path + "/snapshots",
                       templates_.key(),
                       {"image", false},
                       static_cast<size_t>(config.max_snapshots)};
  Sandboxes sandboxes_{context_, config, store, snapshots_,
                       [this](const GuestOptions& options, GuestEvents& events) {
                         return std::make_unique<FakeGuest>(context_, options, events, behaviour_,
                                                            logs_, templates_, counts);
                       }};
  Server server_{context_, Services{config, store, sandboxes_, snapshots_, templates_, logs_},
                 "127.0.0.1", 0, make_tls_};
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

}  // namespace hutch::control::testing
