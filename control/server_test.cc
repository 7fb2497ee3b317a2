// The server over a loopback socket.
#include "control/server.h"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <future>
#include <iterator>
#include <set>
#include <thread>

#include "base/log.h"
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

TEST_CASE("no more boot at the same time than may, and the others wait for their turn") {
  Config config;
  config.max_starting = 2;
  Fixture fixture(config, Behaviour::kStartsSlowly);
  std::vector<std::future<unsigned>> all;
  for (int i = 0; i < 7; i++)
    all.push_back(std::async(std::launch::async, [&fixture] {
      return Socket(fixture, kCreate, json{{"stop_at_ms", wall_ms() + 60'000}}).status;
    }));
  for (std::future<unsigned>& status : all) CHECK(status.get() == 101);
  CHECK(fixture.counts.most_starting == 2);
}

TEST_CASE("a sandbox that runs is forked, in its own shape") {
  Fixture fixture;
  Socket parent(fixture, kCreate, json{{"memory_mb", 512}, {"allow_net", {"example.com"}}});
  REQUIRE(parent.status == 101);
  json root = {{"volume", "fork:" + parent.id}};
  Socket fork(fixture, kCreate, json{{"root", root}});
  REQUIRE(fork.status == 101);
  CHECK(fork.id != parent.id);
  CHECK(fixture.counts.forks == 1);
  CHECK(fork.call(1, "echo", 5)["result"]["ok"] == 5);
  // It has the policy of its parent, or one of its own.
  auto policy = [&](const std::string& id) {
    return fixture.request(http::verb::get, "/api/v3/sandbox/" + id + "/policy").body["allow_net"];
  };
  CHECK(policy(fork.id) == json{"example.com"});
  Socket other(fixture, kCreate,
               json{{"root", root}, {"allow_net", json::array()}, {"memory_mb", 512}});
  REQUIRE(other.status == 101);
  CHECK(policy(other.id) == json::array());
  CHECK(fixture.counts.forks == 2);
  // Another size cannot be had; 1280 MiB is what the client says when nobody asks it for a size.
  CHECK(Socket(fixture, kCreate, json{{"root", root}, {"memory_mb", 1024}}).status == 400);
  CHECK(Socket(fixture, kCreate, json{{"root", root}, {"memory_mb", 1280}}).status == 101);
  CHECK(fixture.counts.forks == 3);
  Socket plain(fixture, kCreate);
  json of_plain = {{"volume", "fork:" + plain.id}};
  CHECK(Socket(fixture, kCreate, json{{"root", of_plain}, {"allow_net", {"a.test"}}}).status ==
        400);
  CHECK(Socket(fixture, kCreate, json{{"root", root}}, "").status == 401);
  CHECK(Socket(fixture, kCreate, json{{"root", root}}, fixture.other_token).status == 404);
  CHECK(fixture.counts.forks == 3);
}

TEST_CASE("forks made by a request are of one moment, and have a deadline") {
  Fixture fixture;
  Socket parent(fixture, kCreate);
  REQUIRE(parent.status == 101);
  std::string path = "/api/v3/sandbox/" + parent.id;
  auto ask = [&](const json& body) {
    return fixture.request(http::verb::post, path + "/fork", body.dump());
  };
  Fixture::Answer made = ask({{"count", 3}, {"stop_at_ms", wall_ms() + 60'000}});
  REQUIRE(made.status == 200);
  REQUIRE(made.body["ids"].size() == 3);
  CHECK(fixture.counts.forks == 3);
  CHECK(fixture.counts.saved == 1);
  for (const json& id : made.body["ids"]) {
    Socket socket(fixture, "/api/v3/sandbox/" + id.get<std::string>() + "/connect");
    CHECK(socket.status == 101);
  }
  CHECK(ask({{"stop_at_ms", wall_ms() + 60'000}}).body["ids"].size() == 1);
  CHECK(fixture.counts.saved == 2);
  for (const json& bad : {json(5), json::object(), json{{"count", 2}},
                          json{{"count", 0}, {"stop_at_ms", wall_ms() + 60'000}},
                          json{{"count", 1001}, {"stop_at_ms", wall_ms() + 60'000}},
                          json{{"count", "2"}, {"stop_at_ms", wall_ms() + 60'000}},
                          json{{"stop_at_ms", "soon"}}, json{{"stop_at_ms", 5}}})
    CHECK(ask(bad).status == 400);
  CHECK(fixture.counts.saved == 2);
  CHECK(fixture
            .request(http::verb::post,
                     "/api/v3/sandbox/" + std::string("sbx_loc_") + std::string(20, '0') + "/fork",
                     "{}")
            .status != 200);
}

TEST_CASE("more forks than there may be are refused as a whole") {
  Config config;
  config.max_sandboxes = 3;
  Fixture fixture(config);
  Socket parent(fixture, kCreate);
  REQUIRE(parent.status == 101);
  auto ask = [&](int count) {
    return fixture
        .request(http::verb::post, "/api/v3/sandbox/" + parent.id + "/fork",
                 json{{"count", count}, {"stop_at_ms", wall_ms() + 60'000}}.dump())
        .status;
  };
  CHECK(ask(3) == 429);
  CHECK(fixture.counts.saved == 0);
  CHECK(ask(2) == 200);
  CHECK(ask(1) == 429);
}

TEST_CASE("a sandbox is paused and resumed, and is not forked in between") {
  Fixture fixture;
  Socket parent(fixture, kCreate);
  REQUIRE(parent.status == 101);
  auto post = [&](const char* what, const json& body = json::object()) {
    return fixture.request(http::verb::post, "/api/v3/sandbox/" + parent.id + "/" + what,
                           body.dump());
  };
  const json soon{{"stop_at_ms", wall_ms() + 60'000}};
  for (int i = 0; i < 2; i++) {
    CHECK(post("pause").body == json{{"paused", true}});
    CHECK(fixture.counts.paused == 1);
  }
  Fixture::Answer refused = post("fork", soon);
  CHECK(refused.status == 409);
  CHECK(refused.body["code"] == "SANDBOX_PAUSED");
  CHECK(fixture.counts.saved == 0);
  for (int i = 0; i < 2; i++) {
    CHECK(post("resume").body == json{{"paused", false}});
    CHECK(fixture.counts.paused == 0);
  }
  CHECK(post("fork", soon).status == 200);
}

TEST_CASE("what cannot be paused says so, and one that stands still can be ended") {
  Fixture fixture({}, Behaviour::kCannotBeSaved);
  Socket socket(fixture, kCreate);
  REQUIRE(socket.status == 101);
  std::string path = "/api/v3/sandbox/" + socket.id;
  CHECK(fixture.request(http::verb::post, path + "/pause").status == 500);
  CHECK(socket.call(1, "echo", 5)["result"]["ok"] == 5);
  CHECK(fixture
            .request(http::verb::post, path + "/fork",
                     json{{"count", 2}, {"stop_at_ms", wall_ms() + 60'000}}.dump())
            .status == 500);
  CHECK(fixture.request(http::verb::delete_, path).status == 200);
  CHECK(fixture.request(http::verb::post, path + "/resume").status == 400);

  Fixture other;
  Socket paused(other, kCreate);
  path = "/api/v3/sandbox/" + paused.id;
  CHECK(other.request(http::verb::post, path + "/pause").status == 200);
  CHECK(other.request(http::verb::delete_, path).status == 200);
}

TEST_CASE("a sandbox that cannot be saved cannot be forked, and goes on") {
  Fixture fixture({}, Behaviour::kCannotBeSaved);
  Socket parent(fixture, kCreate);
  REQUIRE(parent.status == 101);
  CHECK(Socket(fixture, kCreate, json{{"root", {{"volume", "fork:" + parent.id}}}}).status == 500);
  CHECK(parent.call(1, "echo", 5)["result"]["ok"] == 5);
}

TEST_CASE("a snapshot is taken of a sandbox, and sandboxes begin with it, in its shape") {
  Config config;
  config.max_snapshots = 2;
  Fixture fixture(config);
  std::string id, first;
  auto get = [&](const std::string& path) { return fixture.request(http::verb::get, path); };
  {
    Socket parent(fixture, kCreate, json{{"memory_mb", 512}, {"allow_net", {"example.com"}}});
    REQUIRE(parent.status == 101);
    first = parent.id;
    std::string path = "/api/v3/sandbox/" + parent.id + "/snapshot";
    auto take = [&](const json& body, const std::string& with = "own") {
      return fixture.request(http::verb::post, path, body.dump(), with);
    };
    for (const json& bad : {json{{"name", "A"}}, json{{"name", 5}}, json(5)})
      CHECK(take(bad).status == 400);
    CHECK(take(json::object(), fixture.other_token).status == 404);
    CHECK(fixture.counts.saved == 0);
    Fixture::Answer taken = take({{"name", "ready"}});
    REQUIRE(taken.status == 200);
    CHECK(taken.body["name"] == "ready");
    CHECK(taken.body["sandbox"] == parent.id);
    CHECK(taken.body["memory_mb"] == 512);
    CHECK(taken.body["allow_net"] == json{"example.com"});
    id = taken.body["id"];
    CHECK(id.starts_with("snp_loc_"));
    CHECK(take({{"name", "ready"}}).status == 409);
    CHECK(fixture.request(http::verb::post, path).status == 200);
    CHECK(take(json::object()).status == 429);
    CHECK(fixture.counts.saved == 2);
    CHECK(parent.call(1, "echo", 5)["result"]["ok"] == 5);
  }
  CHECK(get("/api/v3/snapshots").body.size() == 2);
  CHECK(get("/api/v3/snapshots/ready").body["id"] == id);
  CHECK(fixture.request(http::verb::get, "/api/v3/snapshots", "", fixture.other_token).body ==
        json::array());
  CHECK(
      fixture.request(http::verb::get, "/api/v3/snapshots/" + id, "", fixture.other_token).status ==
      404);
  // Its sandbox has ended.
  CHECK(fixture.request(http::verb::delete_, "/api/v3/sandbox/" + first).status == 200);
  for (const std::string& name : {id, std::string("ready")}) {
    json root = {{"volume", name}};
    Socket restored(fixture, kCreate, json{{"root", root}, {"memory_mb", 1280}});
    REQUIRE(restored.status == 101);
    CHECK(get("/api/v3/sandbox/" + restored.id + "/policy").body["allow_net"] ==
          json{"example.com"});
    CHECK(Socket(fixture, kCreate, json{{"root", root}, {"memory_mb", 1024}}).status == 400);
    CHECK(Socket(fixture, kCreate, json{{"root", root}}, fixture.other_token).status == 404);
    for (const json& one : get("/api/v2/sandboxes").body)
      if (one["id"] == restored.id) CHECK((one["path"] == "restore" && one["process"] == "new"));
  }
  CHECK(fixture.counts.forks == 2);
  Fixture::Answer made =
      fixture.request(http::verb::post, "/api/v3/snapshots/ready/restore",
                      json{{"count", 3}, {"stop_at_ms", wall_ms() + 60'000}}.dump());
  REQUIRE(made.status == 200);
  CHECK(made.body["ids"].size() == 3);
  CHECK(fixture.request(http::verb::post, "/api/v3/snapshots/ready/restore").status == 400);
  CHECK(fixture.request(http::verb::delete_, "/api/v3/snapshots/ready").status == 200);
  CHECK(get("/api/v3/snapshots/ready").status == 404);
  CHECK(get("/api/v3/snapshots").body.size() == 1);
  CHECK(fixture
            .request(http::verb::post, "/api/v3/snapshots/ready/restore",
                     json{{"stop_at_ms", wall_ms() + 60'000}}.dump())
            .status == 404);
  CHECK(Socket(fixture, kCreate, json{{"root", {{"volume", "../x"}}}}).status == 400);
}

TEST_CASE("a sandbox that cannot be saved leaves no snapshot, and its name is free") {
  Fixture fixture({}, Behaviour::kCannotBeSaved);
  Socket parent(fixture, kCreate);
  REQUIRE(parent.status == 101);
  for (int i = 0; i < 2; i++)
    CHECK(fixture
              .request(http::verb::post, "/api/v3/sandbox/" + parent.id + "/snapshot",
                       json{{"name", "ready"}}.dump())
              .status == 500);
  CHECK(fixture.request(http::verb::get, "/api/v3/snapshots").body == json::array());
}

TEST_CASE("a template is built when there is none, in sizes that the server gives") {
  Fixture fixture;
  auto build = [&](const json& body) {
    return fixture.request(http::verb::post, "/api/v3/templates", body.dump());
  };
  for (const json& bad : {json{{"memory_mb", 1}}, json{{"memory_mb", "1"}}, json{{"network", 5}}})
    CHECK(build(bad).status == 400);
  // The fake leaves none behind, which is said.
  Fixture::Answer made = build(json::object());
  CHECK(made.status == 500);
  CHECK(made.body["code"] == "TEMPLATE_FAILED");
  Config off;
  off.no_templates = true;
  Fixture without(off);
  CHECK(without.request(http::verb::post, "/api/v3/templates").status == 409);
}

TEST_CASE("one that fails to start gives its turn to the next") {
  Config config;
  config.max_starting = 1;
  Fixture fixture(config, Behaviour::kFailsToStart);
  std::vector<std::future<unsigned>> all;
  for (int i = 0; i < 5; i++)
    all.push_back(
        std::async(std::launch::async, [&fixture] { return Socket(fixture, kCreate).status; }));
  for (std::future<unsigned>& status : all) CHECK(status.get() == 500);
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

TEST_CASE("a kill is answered in time also when the machine takes long to go") {
  Fixture fixture({}, Behaviour::kNeverEnds);
  Socket socket(fixture, kCreate);
  auto start = std::chrono::steady_clock::now();
  Fixture::Answer answer = fixture.request(http::verb::delete_, "/api/v3/sandbox/" + socket.id);
  CHECK(answer.status == 200);
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(8));
  // It is nobody's any more, though it still counts.
  Socket again(fixture, "/api/v3/sandbox/" + socket.id + "/connect");
  CHECK(again.status == 400);
  CHECK(again.problem["code"] == "SANDBOX_ALREADY_TERMINATED");
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
    CHECK(answer.headers["www-authenticate"] == "Bearer");
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
  Fixture fixture({}, Behaviour::kFailsToStart);
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

TEST_CASE("the description lists every route there is, and no other") {
  Fixture fixture;
  json document = fixture.request(http::verb::get, "/openapi.json").body;
  CHECK(document["openapi"] == "3.1.0");
  std::set<std::string> described, there;
  for (const auto& [path, item] : document["paths"].items())
    for (const auto& [method, operation] : item.items()) {
      if (method == "parameters") continue;
      described.insert(method + " " + path);
      CHECK_FALSE(operation["summary"].get<std::string>().empty());
      CHECK(operation["responses"].contains("default"));
    }
  for (const RouteInfo& route : route_infos()) {
    std::string method = route.method;
    for (char& c : method) c = static_cast<char>(c | 0x20);
    there.insert(method + " " + route.path);
  }
  CHECK(described == there);
  CHECK(there.size() == route_infos().size());
}

TEST_CASE("every route answers, errors as {code, message}; other methods are refused") {
  Fixture fixture;
  Socket socket(fixture, kCreate);
  std::set<std::string> codes;
  for (const RouteInfo& route : route_infos()) {
    std::string path = route.path;
    // Last those that end it.
    if (route.method == std::string("DELETE") && path.find("{id}") != std::string::npos) continue;
    for (auto [name, value] : {std::pair{"{id}", socket.id}, {"{slug}", std::string("x")}})
      if (size_t at = path.find(name); at != std::string::npos)
        path.replace(at, std::strlen(name), value);
    CAPTURE(path);
    Fixture::Answer answer = fixture.request(http::string_to_verb(route.method), path, "{}");
    if (answer.status != 200) {
      CHECK(answer.body.size() == 2);
      CHECK(answer.body["message"].is_string());
      codes.insert(answer.body["code"].get<std::string>());
    }
    Fixture::Answer other = fixture.request(http::verb::options, path, "{}");
    CHECK(other.status == 405);
    CHECK(other.body["code"] == "METHOD_NOT_ALLOWED");
    CHECK((", " + other.headers["allow"] + ",").find(", " + std::string(route.method) + ",") !=
          std::string::npos);
    CHECK(answer.headers["upgrade"] == (answer.status == 426 ? "websocket" : ""));
    // Whoever has no token learns nothing, and not even which routes there are.
    if (path.starts_with("/api/"))
      for (http::verb verb : {http::string_to_verb(route.method), http::verb::options})
        CHECK(fixture.request(verb, path, "{}", "x").body["code"] == "INVALID_TOKEN");
  }
  CHECK(codes == std::set<std::string>{"INVALID_BODY", "NOT_SUPPORTED", "NO_NETWORK",
                                       "SNAPSHOT_NOT_FOUND", "TEMPLATE_FAILED",
                                       "UPGRADE_REQUIRED"});
}

TEST_CASE("a path is taken as it is: nothing in it leads elsewhere") {
  Fixture fixture;
  Socket socket(fixture, kCreate);
  for (const char* id : {"..", "../", "%2e%2e", "..%2f..%2fetc", "sbx_loc_../../../../../etc00",
                         "sbx_loc_%2e%2e%2f00000000000", "sbx_loc_0000000000000000000%00"}) {
    CAPTURE(id);
    Fixture::Answer answer =
        fixture.request(http::verb::delete_, std::string("/api/v3/sandbox/") + id);
    CHECK(answer.status == 404);
    Socket other(fixture, std::string("/api/v3/sandbox/") + id + "/connect");
    CHECK(other.status == 404);
  }
  CHECK(socket.call(1, "echo", 1)["result"]["ok"] == 1);
}

TEST_CASE("limits of the whole server have codes of their own") {
  Config config;
  config.max_total_sandboxes = 2;
  config.max_total_memory_mb = 3000;
  Fixture fixture(config);
  Socket first(fixture, kCreate, json{{"memory_mb", 2000}});
  REQUIRE(first.status == 101);
  Socket large(fixture, kCreate, json{{"memory_mb", 1001}}, fixture.other_token);
  CHECK(large.status == 503);
  CHECK(large.problem["code"] == "MEMORY_LIMIT_REACHED");
  Socket second(fixture, kCreate, json{{"memory_mb", 1000}}, fixture.other_token);
  CHECK(second.status == 101);
  Socket third(fixture, kCreate, json{{"memory_mb", 256}}, fixture.other_token);
  CHECK(third.status == 503);
  CHECK(third.problem["code"] == "SERVER_LIMIT_REACHED");
}

TEST_CASE("a personal token works in the organisations it is for, named in X-Deno-Org") {
  Fixture fixture;
  std::string personal =
      create_token(fixture.store, true, "", {"local", "other"}, wall_ms() + 100'000).text;
  Socket own(fixture, kCreate);
  auto list = [&](const std::string& org) {
    return fixture.request(http::verb::get, "/api/v2/sandboxes", "", personal, org);
  };
  CHECK(list("local").body.size() == 1);
  CHECK(list("other").body.empty());
  CHECK(list("third").body["code"] == "ORGANIZATION_NOT_FOUND");
  CHECK(list("").body["code"] == "MISSING_ORG");
  std::string short_lived = create_token(fixture.store, false, "", {"local"}, wall_ms() + 200).text;
  CHECK(fixture.request(http::verb::get, "/api/v2/sandboxes", "", short_lived).status == 200);
  std::this_thread::sleep_for(std::chrono::milliseconds(250));
  Fixture::Answer expired = fixture.request(http::verb::get, "/api/v2/sandboxes", "", short_lived);
  CHECK(expired.status == 401);
  CHECK(expired.body["code"] == "INVALID_TOKEN");
}

TEST_CASE("deadlines are on the clock that counts sleep") {
  Fixture fixture;
  auto boot_timers = [] {
    int count = 0;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fdinfo")) {
      std::ifstream file(entry.path());
      std::string text((std::istreambuf_iterator<char>(file)), {});
      // CLOCK_BOOTTIME is 7, and a timer that is set has some time left.
      count += text.find("clockid: 7\n") != std::string::npos &&
               text.find("it_value: (0, 0)") == std::string::npos;
    }
    return count;
  };
  CHECK(boot_timers() == 0);
  Socket timed(fixture, kCreate, json{{"stop_at_ms", wall_ms() + 60'000}});
  Socket session(fixture, kCreate);
  CHECK(boot_timers() == 1);
  fixture.request(http::verb::patch, "/api/v3/sandbox/" + session.id,
                  json{{"stop_at_ms", wall_ms() + 60'000}}.dump());
  CHECK(boot_timers() == 2);
}

TEST_CASE("moving a session's deadline makes it outlive its creator; one in the past ends it") {
  Fixture fixture;
  Socket socket(fixture, kCreate);
  std::string path = "/api/v3/sandbox/" + socket.id;
  fixture.request(http::verb::patch, path, json{{"stop_at_ms", wall_ms() + 60'000}}.dump());
  socket.close();
  Socket second(fixture, path + "/connect");
  REQUIRE(second.status == 101);
  CHECK(fixture.request(http::verb::patch, path, R"({"stop_at_ms":1})").status == 200);
  CHECK(second.closed() == 1001);
}

// Standard error, where the log goes, in a file while this lives.
class CapturedLog {
 public:
  CapturedLog() : saved_(::dup(2)), file_(::memfd_create("log", MFD_CLOEXEC)) {
    REQUIRE(::dup2(file_, 2) == 2);
    hutch::set_log_level(hutch::LogLevel::kDebug);
  }
  ~CapturedLog() {
    hutch::set_log_level(hutch::LogLevel::kWarning);
    ::dup2(saved_, 2);
    ::close(saved_);
    ::close(file_);
  }
  CapturedLog(const CapturedLog&) = delete;
  CapturedLog& operator=(const CapturedLog&) = delete;
  std::string text() const {
    std::string text(1 << 20, '\0');
    ssize_t size = ::pread(file_, text.data(), text.size(), 0);
    text.resize(size < 0 ? 0 : static_cast<size_t>(size));
    return text;
  }

 private:
  int saved_, file_;
};

TEST_CASE("no token, secret, variable, label, body or message is in the log of a run") {
  std::string log, id;
  std::vector<std::string> planted;
  {
    CapturedLog captured;
    Fixture fixture;
    planted = {fixture.token,      fixture.other_token, "planted-secret",  "planted-variable",
               "planted-label",    "planted-body",      "planted-message", "planted-query",
               "planted-nonsense", "planted-wrong",     "planted-config",  "planted-allowed"};
    planted.push_back(fixture.token.substr(4, 16));
    Socket socket(fixture, kCreate, json{{"labels", {{"planted-label", "planted-label"}}}});
    id = socket.id;
    socket.call(0, "envSet", {{"key", "planted-variable"}, {"value", "planted-variable"}});
    socket.send(R"({"jsonrpc":"2.0","id":1,"method":"nonsense","params":"planted-nonsense"})");
    socket.send("planted-message that is no JSON");
    Socket secrets(
        fixture, kCreate,
        json{
            {"secrets", {{"KEY", {{"hosts", {"planted-allowed"}}, {"value", "planted-secret"}}}}}});
    Socket allowed(fixture, kCreate, json{{"allow_net", {"planted-allowed"}}});
    Socket wrong(fixture, kCreate, json{{"memory_mb", "planted-config"}});
    fixture.request(http::verb::get, "/api/v2/sandboxes?token=planted-query");
    fixture.request(http::verb::post, "/api/v2/volumes",
                    json{{"token", fixture.token}, {"slug", "planted-body"}}.dump());
    fixture.request(http::verb::patch, "/api/v3/sandbox/" + id, "planted-body");
    fixture.request(http::verb::get, "/planted-query/" + fixture.token);
    fixture.request(http::verb::get, "/api/v2/sandboxes", "", "planted-wrong");
    Socket stranger(fixture, kCreate, nullptr, "ddo_planted-wrong");
    Socket starts(fixture, "/api/v3/sandbox/" + id + "/connect?planted-query");
    Fixture broken({}, Behaviour::kFailsToStart);
    Socket failed(broken, kCreate, json{{"labels", {{"planted-label", "x"}}}});
    fixture.request(http::verb::delete_, "/api/v3/sandbox/" + id);
    log = captured.text();
  }
  // It is the log of this run.
  CHECK(log.find(id) != std::string::npos);
  CHECK(log.find("is dropped") != std::string::npos);
  CHECK(log.find("did not start") == std::string::npos);
  for (const std::string& value : planted) {
    CAPTURE(value);
    CHECK(log.find(value) == std::string::npos);
  }
}
