// Clients that are hostile, slow, many at a time or gone: each gets a status or a close code, and
// what the server holds for it stays small.
#include <doctest/doctest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <boost/asio/read.hpp>
#include <chrono>
#include <fstream>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "control/clock.h"
#include "control/server_fixture.h"

using namespace hutch::control;
using namespace hutch::control::testing;
using std::chrono::milliseconds;

namespace {

constexpr size_t kMiB = 1 << 20;
// Of the kernel, for one connection over loopback, both directions.
constexpr size_t kSocketBuffers = 12 * kMiB;

std::string upgrade_head(const std::string& target, const std::string& token,
                         const std::string& more = "") {
  return "GET " + target + " HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
         "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" +
         "Authorization: Bearer " + token + "\r\n" + more + "\r\n";
}

// A client that writes bytes as it likes.
class Raw {
 public:
  explicit Raw(Fixture& fixture) : socket(fixture.connect()) {}

  // False: the server has closed meanwhile.
  bool send(std::string_view bytes) {
    boost::system::error_code error;
    asio::write(socket, asio::buffer(bytes), error);
    return !error;
  }
  // The status of the server's answer; 0: it closed without one.
  unsigned status() {
    beast::flat_buffer buffer;
    http::response_parser<http::string_body> parser;
    boost::system::error_code error;
    http::read_header(socket, buffer, parser, error);
    if (error) return 0;
    unsigned result = parser.get().result_int();
    if (result == 101) return result;
    http::read(socket, buffer, parser, error);
    body = parser.get().body();
    return result;
  }
  // Reads frames of the server, which has upgraded, up to its close; the code. 0: it just closed.
  unsigned close_code() {
    std::string bytes;
    char chunk[4096];
    boost::system::error_code error;
    for (;;) {
      size_t size = socket.read_some(asio::buffer(chunk), error);
      if (error) return 0;
      bytes.append(chunk, size);
      while (bytes.size() >= 2) {
        // The server sends none that is longer here.
        auto length = static_cast<size_t>(bytes[1] & 0x7f);
        if (bytes.size() < 2 + length) break;
        if ((bytes[0] & 0xf) == 8)
          return static_cast<unsigned>(static_cast<unsigned char>(bytes[2])) << 8 |
                 static_cast<unsigned char>(bytes[3]);
        bytes.erase(0, 2 + length);
      }
    }
  }
  bool is_closed_within(milliseconds time) {
    auto end = std::chrono::steady_clock::now() + time;
    socket.non_blocking(true);
    char chunk[4096];
    while (std::chrono::steady_clock::now() < end) {
      boost::system::error_code error;
      socket.read_some(asio::buffer(chunk), error);
      if (error && error != asio::error::would_block) return true;
      std::this_thread::sleep_for(milliseconds(10));
    }
    return false;
  }

  tcp::socket socket;
  std::string body;
};

// The head of a client's frame of text; its mask is zero, so that bytes stand for themselves.
std::string frame_head(uint64_t size, bool last = true, unsigned opcode = 1) {
  std::string head;
  head += static_cast<char>((last ? 0x80u : 0u) | opcode);
  if (size < 126) return head + static_cast<char>(0x80u | size) + std::string(4, '\0');
  head += static_cast<char>(0xff);
  for (int shift = 56; shift >= 0; shift -= 8) head += static_cast<char>(size >> shift & 0xff);
  return head + std::string(4, '\0');
}

// Resident memory of this process, the server in it.
size_t resident() {
  std::ifstream file("/proc/self/statm");
  size_t pages = 0;
  file >> pages >> pages;
  return pages * static_cast<size_t>(::sysconf(_SC_PAGESIZE));
}

size_t running(Fixture& fixture) {
  size_t count = 0;
  for (const json& sandbox : fixture.request(http::verb::get, "/api/v2/sandboxes").body)
    count += sandbox["status"] == "running";
  return count;
}

}  // namespace

TEST_CASE("twenty sandboxes are made, used and ended at once") {
  Fixture fixture;
  std::vector<std::thread> threads;
  std::atomic<int> good{0};
  for (int i = 0; i < 20; i++)
    threads.emplace_back([&, i] {
      Socket socket(fixture, kCreate, json{{"labels", {{"n", std::to_string(i)}}}});
      if (socket.status != 101) return;
      for (int call = 0; call < 20; call++) {
        json params{i, call, std::string(5000, 'x')};
        if (socket.call(call, "echo", params)["result"]["ok"] != params) return;
      }
      good++;
      socket.close();
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(good == 20);
  CHECK(fixture.request(http::verb::get, "/api/v2/sandboxes").body.size() == 20);
}

TEST_CASE("an organisation's limit holds however many ask at once, and another's is its own") {
  Config config;
  config.max_sandboxes = 10;
  Fixture fixture(config);
  std::mutex mutex;
  std::map<unsigned, int> own, other;
  std::vector<std::unique_ptr<Raw>> sockets;
  std::vector<std::thread> threads;
  for (int i = 0; i < 40; i++)
    threads.emplace_back([&, is_own = i % 2 == 0] {
      auto raw = std::make_unique<Raw>(fixture);
      raw->send(upgrade_head(kCreate, is_own ? fixture.token : fixture.other_token));
      unsigned status = raw->status();
      std::lock_guard lock(mutex);
      (is_own ? own : other)[status]++;
      sockets.push_back(std::move(raw));
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(own == std::map<unsigned, int>{{101, 10}, {429, 10}});
  CHECK(other == own);
  CHECK(running(fixture) == 10);
  // A place that has become free can be taken.
  sockets.clear();
  for (int i = 0; i < 200 && running(fixture) > 0; i++)
    std::this_thread::sleep_for(milliseconds(10));
  Socket again(fixture, kCreate);
  CHECK(again.status == 101);
}

TEST_CASE("what is no request is refused with a status") {
  Fixture fixture;
  const std::string token = fixture.token;
  auto status_of = [&](const std::string& bytes) {
    Raw raw(fixture);
    raw.send(bytes);
    return raw.status();
  };
  CHECK(status_of("nonsense\r\n\r\n") == 400);
  CHECK(status_of(std::string(64, '\0') + "\r\n\r\n") == 400);
  CHECK(status_of("GET / HTTP/9.9\r\n\r\n") == 400);
  CHECK(status_of("POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n") == 400);
  CHECK(status_of("POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n") == 400);
  CHECK(status_of("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n") == 400);
  CHECK(status_of("GET / HTTP/1.1\r\nX: " + std::string(4 * kMiB, 'x') + "\r\n\r\n") == 431);
  CHECK(status_of("PATCH / HTTP/1.1\r\nContent-Length: 2000000\r\n\r\n") == 413);
  std::string many = "GET / HTTP/1.1\r\n";
  while (many.size() < kMiB) many += "A: b\r\n";
  CHECK(status_of(many + "\r\n") == 431);
  for (const char* config : {"!!!!", "=", "bm8=", "W10=", "eyJtZW1vcnlfbWIiOi0xfQ==", "\xff\xfe"})
    CHECK(status_of(upgrade_head(kCreate, token,
                                 std::string("x-deno-sandbox-config: ") + config + "\r\n")) == 400);
  CHECK(status_of(upgrade_head(kCreate, "../" + token)) == 401);
  CHECK(status_of(upgrade_head("/api/v3/sandbox/../../etc/passwd/connect", token)) == 404);
  CHECK(status_of(upgrade_head("/api/v3/sandbox/..%2f..%2f/connect", token)) == 404);
  CHECK(status_of(upgrade_head("/%", token)) == 404);
  CHECK(status_of("GET /api/v2/sandboxes?labels[a]=%zz HTTP/1.1\r\nAuthorization: Bearer " + token +
                  "\r\n\r\n") == 400);
  CHECK(running(fixture) == 0);
}

TEST_CASE("a frame that is too long is refused by its head") {
  Fixture fixture({}, Behaviour::kDiscards);
  for (uint64_t size : {uint64_t{161} * kMiB, uint64_t{1} << 62}) {
    Raw raw(fixture);
    raw.send(upgrade_head(kCreate, fixture.token));
    REQUIRE(raw.status() == 101);
    raw.send(frame_head(size));
    CHECK(raw.close_code() == 1009);
  }
  // And so are fragments that are too long together.
  Raw raw(fixture);
  raw.send(upgrade_head(kCreate, fixture.token));
  REQUIRE(raw.status() == 101);
  std::string part(8 * kMiB, ' ');
  bool open = raw.send(frame_head(part.size(), false)) && raw.send(part);
  for (int i = 0; i < 20 && open; i++)
    open = raw.send(frame_head(part.size(), false, 0)) && raw.send(part);
  CHECK(raw.close_code() == 1009);
}

TEST_CASE("a message of 100 MiB passes through without being held") {
  Fixture fixture({}, Behaviour::kDiscards);
  Raw raw(fixture);
  raw.send(upgrade_head(kCreate, fixture.token));
  REQUIRE(raw.status() == 101);
  std::string part(kMiB, ' ');
  raw.send(frame_head(100 * kMiB));
  raw.send(part);
  size_t before = resident();
  size_t most = before;
  for (int i = 1; i < 100; i++) {
    REQUIRE(raw.send(part));
    most = std::max(most, resident());
  }
  CHECK(most - before < 16 * kMiB);
  raw.send(frame_head(4) + "ping");
  // Behind all that, the answer: it has been taken.
  char answer[6];
  asio::read(raw.socket, asio::buffer(answer));
  CHECK(std::string_view(answer + 2, 4) == "pong");
}

TEST_CASE("when the guest takes nothing, its client is not read on") {
  Config config;
  config.client_timeout_s = 1;
  Fixture fixture(config, Behaviour::kTakesNothing);
  Raw raw(fixture);
  raw.send(upgrade_head(kCreate, fixture.token));
  REQUIRE(raw.status() == 101);
  raw.socket.non_blocking(true);
  std::string head = frame_head(100 * kMiB), part(kMiB, ' ');
  raw.send(head);
  size_t sent = 0;
  auto end = std::chrono::steady_clock::now() + milliseconds(600);
  while (std::chrono::steady_clock::now() < end && sent < 100 * kMiB) {
    boost::system::error_code error;
    sent += raw.socket.write_some(asio::buffer(part), error);
    if (error) std::this_thread::sleep_for(milliseconds(20));
  }
  CHECK(sent > 64 * 1024);
  CHECK(sent < kSocketBuffers + 4 * kMiB);
}

TEST_CASE("when a client reads nothing, its guest gets no more credit") {
  Fixture fixture({}, Behaviour::kFloods);
  Raw raw(fixture);
  raw.send(upgrade_head(kCreate, fixture.token));
  REQUIRE(raw.status() == 101);
  // Without an end to its credit it would never come to rest. The kernel's buffers still grow a
  // little now and then on a busy host, so rest is what no half second changes.
  uint64_t sent = 0;
  for (int i = 0; i < 60; i++) {
    std::this_thread::sleep_for(milliseconds(500));
    uint64_t before = std::exchange(sent, fixture.counts.sent);
    if (sent == before && sent > kMiB) break;
    REQUIRE(sent < kSocketBuffers + 4 * kMiB);
  }
  CHECK(sent > kMiB);
  CHECK(sent < kSocketBuffers + 4 * kMiB);
  // And goes on when the client does.
  std::string sink(4 * kMiB, '\0');
  for (int i = 0; i < 5; i++) asio::read(raw.socket, asio::buffer(sink));
  CHECK(fixture.counts.sent > sent);
}

TEST_CASE("one that waits for its turn to start can be ended, by its deadline and by its id") {
  Config config;
  config.max_starting = 1;
  Fixture fixture(config, Behaviour::kNeverStarts);
  // This one has the turn for good.
  Raw first(fixture);
  first.send(upgrade_head(kCreate, fixture.token));
  while (fixture.counts.starting == 0) std::this_thread::sleep_for(milliseconds(5));
  Raw late(fixture);
  std::string text = json{{"stop_at_ms", wall_ms() + 200}}.dump();
  std::string encoded(beast::detail::base64::encoded_size(text.size()), '\0');
  encoded.resize(beast::detail::base64::encode(encoded.data(), text.data(), text.size()));
  late.send(upgrade_head(kCreate, fixture.token, "x-deno-sandbox-config: " + encoded + "\r\n"));
  CHECK(late.status() == 400);
  CHECK(late.body.find("SANDBOX_ALREADY_TERMINATED") != std::string::npos);
  Raw waits(fixture);
  waits.send(upgrade_head(kCreate, fixture.token));
  while (running(fixture) < 2) std::this_thread::sleep_for(milliseconds(5));
  for (const json& one : fixture.request(http::verb::get, "/api/v3/sandboxes").body)
    fixture.request(http::verb::delete_, "/api/v3/sandbox/" + one["id"].get<std::string>());
  CHECK(first.status() == 400);
  CHECK(waits.status() == 400);
  CHECK(fixture.counts.most_starting == 1);
  CHECK(running(fixture) == 0);
}

TEST_CASE("a client that answers no pings is given up, and its session sandbox ends") {
  Config config;
  config.client_timeout_s = 1;
  Fixture fixture(config);
  Raw silent(fixture);
  silent.send(upgrade_head(kCreate, fixture.token));
  REQUIRE(silent.status() == 101);
  CHECK(running(fixture) == 1);
  // It reads pings, and does not answer.
  CHECK(silent.is_closed_within(milliseconds(4000)));
  CHECK(running(fixture) == 0);
}

TEST_CASE("a client that is idle but answers pings stays, also while its guest takes nothing") {
  Config config;
  config.client_timeout_s = 1;
  for (Behaviour behaviour : {Behaviour::kEchoes, Behaviour::kTakesNothing}) {
    Fixture fixture(config, behaviour);
    Socket socket(fixture, kCreate);
    REQUIRE(socket.status == 101);
    if (behaviour == Behaviour::kTakesNothing) socket.send(std::string(4 * kMiB, ' '));
    // Its library reads, and so answers pings; it gets no message.
    std::thread reader([&] { socket.closed(); });
    std::this_thread::sleep_for(milliseconds(2500));
    Fixture::Answer list = fixture.request(http::verb::get, "/api/v2/sandboxes");
    CHECK(list.body[0]["status"] == "running");
    fixture.request(http::verb::delete_, "/api/v3/sandbox/" + socket.id);
    reader.join();
  }
}

TEST_CASE("half-open connections do not keep others out, and end by themselves") {
  Config config;
  config.max_connections = 8;
  Fixture fixture(config);
  std::vector<std::unique_ptr<Raw>> slow;
  for (int i = 0; i < 7; i++) {
    slow.push_back(std::make_unique<Raw>(fixture));
    slow.back()->send("GET /heal");
    // Half of them say that nothing more comes.
    if (i % 2 == 0) slow.back()->socket.shutdown(tcp::socket::shutdown_send);
  }
  CHECK(fixture.request(http::verb::get, "/healthz").status == 200);
  for (size_t i = 0; i < slow.size(); i += 2) CHECK(slow[i]->is_closed_within(milliseconds(2000)));
  // A creator that is gone before its sandbox serves takes it along.
  {
    Raw gone(fixture);
    gone.send(upgrade_head(kCreate, fixture.token));
  }
  for (int i = 0; i < 200 && running(fixture) > 0; i++)
    std::this_thread::sleep_for(milliseconds(10));
  CHECK(running(fixture) == 0);
}
