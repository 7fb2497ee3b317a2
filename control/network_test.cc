// What a client asks of a sandbox's network: its policy, and the log of what was decided.
#include <chrono>
#include <thread>

#include "control/api_client.h"
#include "control/server_fixture.h"
#include "event-log/event_log.h"

using namespace hutch::control;
using namespace hutch::control::testing;

namespace {

std::string path_of(const Socket& socket, const std::string& what) {
  return "/api/v3/sandbox/" + socket.id + "/" + what;
}

std::string text_of(const json& lines) {
  std::string text;
  for (const json& line : lines) text += line.get<std::string>() + "\n";
  return text;
}

}  // namespace

TEST_CASE("a policy is shown and changed, and its change reaches the guest") {
  Fixture fixture;
  Socket socket(fixture, kCreate, json{{"allow_net", {"b.test", "A.test:443"}}});
  Fixture::Answer shown = fixture.request(http::verb::get, path_of(socket, "policy"));
  CHECK(shown.status == 200);
  CHECK(shown.body == json{{"allow_all", false}, {"allow_net", {"a.test:443", "b.test"}}});
  auto set = [&](const json& body) {
    return fixture.request(http::verb::put, path_of(socket, "policy"), body.dump());
  };
  Fixture::Answer changed = set({{"allow_net", {"*.c.test"}}});
  CHECK(changed.status == 200);
  CHECK(changed.body["allow_net"] == json{"*.c.test"});
  CHECK(set({{"allow_all", true}}).body["allow_all"] == true);
  CHECK(set({{"allow_all", true}, {"allow_net", json::array()}}).status == 200);
  CHECK(set({{"allow_all", false}, {"allow_net", json::array()}}).body["allow_all"] == false);
  // What leaves open what is meant changes nothing.
  for (const json& bad :
       {json{{"allow_all", true}, {"allow_net", {"a.test"}}}, json{{"allow_all", false}},
        json::object(), json{"a.test"}, json{{"allow_net", "a.test"}}})
    CHECK(set(bad).body["code"] == "INVALID_BODY");
  CHECK(set({{"allow_net", {"*"}}}).body["code"] == "INVALID_ALLOW_NET");
  CHECK(set({{"allow_net", {1}}}).body["code"] == "INVALID_SANDBOX_CONFIG");
  CHECK(set({{"allow_net", {"refused.test"}}}).status == 500);
  CHECK(fixture.request(http::verb::get, path_of(socket, "policy")).body["allow_net"] ==
        json::array());
  // The guest was told of each, and of no other.
  json lines = fixture.request(http::verb::get, path_of(socket, "network")).body["lines"];
  CHECK(lines.size() == 6);
  CHECK(hutch::event_log::verify(text_of(lines))->lines == 6);
}

TEST_CASE("a network's log is read in parts, and waited for") {
  Fixture fixture;
  Socket socket(fixture, kCreate, json{{"allow_net", json::array()}});
  std::string path = path_of(socket, "network");
  json first = fixture.request(http::verb::get, path).body;
  CHECK(first["lines"].size() == 1);
  CHECK(first["running"] == true);
  std::string from = "?from=" + std::to_string(first["next"].get<uint64_t>());
  json none = fixture.request(http::verb::get, path + from).body;
  CHECK(none["lines"].empty());
  CHECK(none["next"] == first["next"]);
  // A line that comes answers those who wait.
  std::thread changes([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    fixture.request(http::verb::put, path_of(socket, "policy"), R"({"allow_net":["a.test"]})");
  });
  auto start = std::chrono::steady_clock::now();
  json second = fixture.request(http::verb::get, path + from + "&wait_s=60").body;
  changes.join();
  CHECK(second["lines"].size() == 1);
  CHECK(second["lines"][0].get<std::string>().find("a.test") != std::string::npos);
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(30));
  // Nothing comes: the time passes.
  std::string end = "?from=" + std::to_string(second["next"].get<uint64_t>());
  CHECK(fixture.request(http::verb::get, path + end + "&wait_s=1").body["lines"].empty());
  // Its end does too, and the log stays.
  fixture.request(http::verb::delete_, "/api/v3/sandbox/" + socket.id);
  json last = fixture.request(http::verb::get, path + "?wait_s=60").body;
  CHECK(last["running"] == false);
  CHECK(last["lines"].size() == 2);
  CHECK(fixture.request(http::verb::get, path + end + "&wait_s=60").body["running"] == false);
  for (const char* bad : {"?from=x", "?from=-1", "?from=99999999", "?wait_s=61", "?from="})
    CHECK(fixture.request(http::verb::get, path + bad).body["code"] == "INVALID_QUERY");
}

TEST_CASE("a network is its organisation's alone, and a sandbox may have none") {
  Fixture fixture;
  Socket socket(fixture, kCreate, json{{"allow_net", json::array()}});
  for (const char* what : {"policy", "network"}) {
    Fixture::Answer answer =
        fixture.request(http::verb::get, path_of(socket, what), "", fixture.other_token);
    CHECK(answer.status == 404);
    CHECK(answer.body["code"] == "SANDBOX_NOT_FOUND");
  }
  CHECK(fixture
            .request(http::verb::put, path_of(socket, "policy"), R"({"allow_all":true})",
                     fixture.other_token)
            .status == 404);
  Socket without(fixture, kCreate);
  for (const char* what : {"policy", "network"})
    CHECK(fixture.request(http::verb::get, path_of(without, what)).body["code"] == "NO_NETWORK");
  CHECK(fixture.request(http::verb::put, path_of(without, "policy"), R"({"allow_all":true})")
            .body["code"] == "NO_NETWORK");
}

TEST_CASE("a server's address is read strictly") {
  Endpoint endpoint = parse_endpoint("http://127.0.0.1:7777");
  CHECK_FALSE(endpoint.tls);
  CHECK(endpoint.host == "127.0.0.1");
  CHECK(endpoint.port == "7777");
  endpoint = parse_endpoint("https://boxes.example.com/");
  CHECK(endpoint.tls);
  CHECK(endpoint.host == "boxes.example.com");
  CHECK(endpoint.port == "443");
  endpoint = parse_endpoint("http://[::1]:80");
  CHECK(endpoint.host == "::1");
  CHECK(endpoint.port == "80");
  for (const char* bad :
       {"", "127.0.0.1:7777", "ftp://a", "http://", "http://a:", "http://a:x", "http://a:123456",
        "http://a/b", "http://a@b", "http://[::1", "http://:80"}) {
    CAPTURE(bad);
    CHECK_THROWS_AS(parse_endpoint(bad), std::runtime_error);
  }
}

TEST_CASE("verbs ask the server and hear what is wrong") {
  Fixture fixture;
  Socket socket(fixture, kCreate, json{{"allow_net", {"a.test"}}});
  Endpoint endpoint = parse_endpoint("http://127.0.0.1:" + std::to_string(fixture.port()));
  endpoint.token = fixture.token;
  CHECK(ApiClient(endpoint).get(path_of(socket, "policy"))["allow_net"] == json{"a.test"});
  CHECK(ApiClient(endpoint).put(path_of(socket, "policy"), {{"allow_all", true}})["allow_all"] ==
        true);
  auto message = [&](const Endpoint& where) -> std::string {
    try {
      ApiClient(where).get(path_of(socket, "policy?x"));
      return "";
    } catch (const std::runtime_error& error) {
      return error.what();
    }
  };
  CHECK(message(endpoint).empty());
  endpoint.token = fixture.other_token;
  CHECK(message(endpoint) == "there is no sandbox of this id");
  endpoint.port = "1";
  CHECK(message(endpoint).find("is hutch serve running there?") != std::string::npos);
}
