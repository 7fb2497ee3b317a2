// Deno programs, with the deno that HUTCH_DENO names. Without it, what is left is the error.
#include <doctest/doctest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "guest-agent/rpc/rpc_client.h"

namespace hutch::agent::rpc {
namespace {

std::vector<std::string> environment() {
  const char* deno = std::getenv("HUTCH_DENO");
  std::string path =
      deno == nullptr ? "/nowhere" : std::filesystem::path(deno).parent_path().string();
  return {"PATH=" + path + ":/usr/bin:/bin", "NO_COLOR=1", "DENO_NO_UPDATE_CHECK=1"};
}

bool is_without_deno() {
  const char* deno = std::getenv("HUTCH_DENO");
  if (deno != nullptr && ::access(deno, X_OK) == 0) return false;
  MESSAGE("skipped: HUTCH_DENO names no deno program");
  return true;
}

TEST_CASE("without Deno its methods say so") {
  Sandbox sandbox({"PATH=/nowhere"});
  RpcClient client(sandbox);
  CHECK(client.error("spawnDeno", {{"code", "1"}, {"extension", "ts"}}) == "NotFound/ENOENT");
  CHECK(client.error("spawnDenoRepl") == "NotFound/ENOENT");
  CHECK(client.error("spawnDeno", {{"code", "1"}, {"extension", "../x"}}) == "TypeError");
  CHECK(client.error("spawnDeno") == "TypeError");
  CHECK(client.error("denoReplEval", {{"pid", 1}, {"code", "1"}}) == "NotFound/ENOENT");
  CHECK(client.error("denoReplCall", {{"pid", 1}, {"fn", "x"}, {"args", 1}}) == "TypeError");
  CHECK(client.error("denoReplClose", {{"pid", 1}}) == "NotFound/ENOENT");
  CHECK(client.call("denoHttpWait", {{"pid", 1}}) == false);
}

TEST_CASE("Deno runs code") {
  if (is_without_deno()) return;
  Sandbox sandbox(environment());
  RpcClient client(sandbox);
  Json process = client.call(
      "spawnDeno",
      {{"code", "console.log(6 * 7, Deno.args)"}, {"extension", "ts"}, {"scriptArgs", {"a b"}}});
  CHECK(process["watcherId"].is_null());
  CHECK(client.call("denoHttpWait", {{"pid", process["pid"]}}) == false);
  CHECK(client.call("processWait", {{"pid", process["pid"]}})["code"] == 0);
  CHECK(client.wait_stream(process["stdoutStreamId"]).bytes == "42 [ \"a b\" ]\n");

  process = client.call("spawnDeno", {{"code", "Deno.serve({port: 0}, () => new Response('hi'))"},
                                      {"extension", "ts"}});
  CHECK(client.call("denoHttpWait", {{"pid", process["pid"]}}) == true);
  CHECK(client.call("processKill", {{"pid", process["pid"]}}) == nullptr);
}

TEST_CASE("fetch reaches the HTTP server of a Deno process") {
  if (is_without_deno()) return;
  Sandbox sandbox(environment());
  RpcClient client(sandbox);
  std::string code =
      "Deno.serve({port: 0}, async (r) => new URL(r.url).pathname === '/none' ?"
      " new Response(null, {status: 204}) : new Response(r.method + ' ' + r.headers.get('x-a') +"
      " ' ' + await r.text(), {status: 201, headers: {'x-b': 'c'}}))";
  Json pid = client.call("spawnDeno", {{"code", code}, {"extension", "ts"}})["pid"];
  REQUIRE(client.call("denoHttpWait", {{"pid", pid}}) == true);
  client.start_stream(1);
  client.send_chunk(1, "the ");
  client.send_chunk(1, "body");
  client.end_stream(1);
  Json response = client.call("fetch", {{"url", "http://any.host/path?q"},
                                        {"method", "POST"},
                                        {"headers", Json::array({Json::array({"x-a", "value"})})},
                                        {"pid", pid},
                                        {"redirect", "follow"},
                                        {"bodyStreamId", 1}});
  CHECK(response["status"] == 201);
  CHECK(response["statusText"] == "Created");
  CHECK(client.wait_stream(response["bodyStreamId"]).bytes == "POST value the body");
  bool has_header = false;
  for (const Json& header : response["headers"]) has_header |= header == Json{"x-b", "c"};
  CHECK(has_header);
  response = client.call(
      "fetch",
      {{"url", "http://x/none"}, {"method", "GET"}, {"headers", Json::array()}, {"pid", pid}});
  CHECK(response["status"] == 204);
  CHECK(response["bodyStreamId"].is_null());

  // From the network, which is this machine's, with curl.
  code =
      "Deno.serve({port: 0, onListen: (a) => console.log(a.port)}, (r) => new URL(r.url).pathname"
      " === '/go' ? new Response('', {status: 302, headers: {location: '/there'}}) :"
      " new Response('at ' + new URL(r.url).pathname + r.method))";
  Json server = client.call("spawnDeno", {{"code", code}, {"extension", "ts"}});
  Json out = server["stdoutStreamId"];
  REQUIRE(client.wait_for([&] { return client.stream(out).bytes.ends_with("\n"); }));
  std::string port = client.stream(out).bytes;
  std::string url = "http://127.0.0.1:" + port.substr(0, port.size() - 1) + "/go";
  response = client.call("fetch", {{"url", url}, {"method", "POST"}, {"headers", Json::array()}});
  CHECK(response["status"] == 200);
  CHECK(client.wait_stream(response["bodyStreamId"]).bytes == "at /thereGET");
  response = client.call(
      "fetch",
      {{"url", url}, {"method", "GET"}, {"headers", Json::array()}, {"redirect", "manual"}});
  CHECK(response["status"] == 302);
  CHECK(client.wait_stream(response["bodyStreamId"]).bytes.empty());
}

TEST_CASE("fetch says what is wrong") {
  Sandbox sandbox;
  RpcClient client(sandbox);
  CHECK(client.error("fetch", {{"url", "http://127.0.0.1:1/"}, {"method", "GET"}}) == "TypeError");
  CHECK(client.last_message().starts_with("error sending request for url (http://127.0.0.1:1/): "));
  CHECK(client.error("fetch", {{"url", "http://x/"}, {"pid", 1}}) == "NotFound/ENOENT");
  CHECK(client.error("fetch", {{"url", "http://x/"}, {"method", "G T"}}) == "TypeError");
  CHECK(client.error("fetch", {{"url", "http://x/"},
                               {"headers", Json::array({Json::array({"a", "b\nc"})})}}) ==
        "TypeError");
  CHECK(client.error("fetch", Json::object()) == "TypeError");
}

TEST_CASE("a REPL keeps its state and tells errors") {
  if (is_without_deno()) return;
  Sandbox sandbox(environment());
  RpcClient client(sandbox);
  Json pid = client.call("spawnDenoRepl")["pid"];
  auto eval = [&](const std::string& code) {
    return client.call("denoReplEval", {{"pid", pid}, {"code", code}});
  };
  CHECK(eval("let x: number = 1; x + 2") == 3);
  CHECK(eval("x = 10; ({a: [x, null, 'text']})") == Json{{"a", {10, nullptr, "text"}}});
  CHECK(eval("undefined") == nullptr);
  CHECK(eval("await Promise.resolve('later')") == "later");
  CHECK(client.error("denoReplEval", {{"pid", pid}, {"code", "throw new RangeError('far')"}}) ==
        "RangeError");
  CHECK(client.last_message() == "far");
  CHECK(client.error("denoReplEval", {{"pid", pid}, {"code", "let let"}}) == "SyntaxError");
  CHECK(client.call("denoReplCall",
                    {{"pid", pid}, {"fn", "async (a, b) => a + b"}, {"args", {20, 3}}}) == 23);
  CHECK(client.call("denoReplClose", {{"pid", pid}}) == nullptr);
  client.call("processWait", {{"pid", pid}});
  CHECK(client.error("denoReplClose", {{"pid", pid}}) == "NotFound/ENOENT");
}

TEST_CASE("a watched program that changes starts again") {
  if (is_without_deno()) return;
  Sandbox sandbox(environment());
  RpcClient client(sandbox);
  std::string folder = client.call("makeTempDir"), file = folder + "/main.ts";
  auto write = [&](const std::string& code) {
    client.call("writeTextFile", {{"path", file}, {"content", code}});
  };
  write("console.log('one'); setInterval(() => {}, 1000)");
  Json process = client.call("spawnDeno", {{"entrypoint", file}, {"watch", true}});
  CHECK(process["watcherId"].get<std::string>().size() == 36);
  Json out = process["stdoutStreamId"];
  REQUIRE(client.wait_for([&] { return client.stream(out).bytes == "one\n"; }));
  // Deno may not watch yet when the program already writes: change it until it is seen.
  for (int i = 0; i < 40 && client.restarts().empty(); i++) {
    write("console.log('two'); setInterval(() => {}, 1000) //" + std::to_string(i));
    client.run({{"command", "sleep"}, {"args", {"0.5"}}});
  }
  REQUIRE_FALSE(client.restarts().empty());
  CHECK(client.restarts()[0] == Json{{"watcherId", process["watcherId"]}});
  CHECK(client.wait_for([&] { return client.stream(out).bytes.ends_with("two\n"); }));
  client.call("processKill", {{"pid", process["pid"]}});
  client.call("remove", {{"path", folder}, {"options", {{"recursive", true}}}});
}

}  // namespace
}  // namespace hutch::agent::rpc
