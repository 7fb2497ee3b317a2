// The server over a loopback socket.
#include "control/server.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <map>
#include <thread>

#include "control/clock.h"
#include "control/ids.h"
#include "control/openapi.h"
#include "control/server_fixture.h"

using namespace hutch::control;
using namespace hutch::control::testing;

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
