// Deno programs, with the deno that HUTCH_DENO names. Without it, what is left is the error.
#include <doctest/doctest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <utility>

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
  // For tools/run_tests.py, which counts it.
  static bool said = false;
  if (!std::exchange(said, true)) fmt::print("SKIPPED: HUTCH_DENO names no deno program\n");
  return true;
}

// So that its folder goes, too.
void stop(RpcClient& client, const Json& pid) {
  CHECK(client.call("processKill", {{"pid", pid}}) == nullptr);
  CHECK(client.call("processWait", {{"pid", pid}})["signal"] == "SIGTERM");
}

TEST_CASE("without Deno its methods say so") {
  Sandbox sandbox({"PATH=/nowhere"});
  RpcClient client(sandbox);
  CHECK(client.error("spawnDeno", {{"code", "1"}, {"extension", "ts"}}) == "NotFound/ENOENT");
  CHECK(client.error("spawnDenoRepl") == "NotFound/ENOENT");
  CHECK(client.error("spawnDeno", {{"code", "1"}, {"extension", "../x"}}) == "TypeError");
  CHECK(client.error("spawnDeno", {{"code", "1"}, {"extension", "tss"}}) == "TypeError");
  CHECK(client.error("spawnDeno", {{"code", "1"}, {"entrypoint", "main.ts"}}) == "TypeError");
  CHECK(client.error("spawnDeno", {{"entrypoint", "main.ts"}, {"watch", 1}}) == "TypeError");
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
  stop(client, process["pid"]);
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
  stop(client, server["pid"]);
  stop(client, pid);
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
  CHECK(client.call("processWait", {{"pid", pid}})["success"] == true);
  CHECK(client.error("denoReplClose", {{"pid", pid}}) == "NotFound/ENOENT");
}

TEST_CASE("a REPL evaluates in order, whatever names the code uses") {
  if (is_without_deno()) return;
  Sandbox sandbox(environment());
  RpcClient client(sandbox);
  Json process =
      client.call("spawnDenoRepl", {{"scriptArgs", {"a b", "-c"}}, {"env", {{"E", "1"}}}});
  Json pid = process["pid"];
  auto eval = [&](const std::string& code) {
    return client.call("denoReplEval", {{"pid", pid}, {"code", code}});
  };
  CHECK(eval("[Deno.args, Deno.env.get('E')]") == Json{{"a b", "-c"}, "1"});
  std::vector<int> calls;
  eval("const order = []");
  for (int i = 0; i < 20; i++)
    calls.push_back(client.send("denoReplEval",
                                {{"pid", pid}, {"code", "order.push(" + std::to_string(i) + ")"}}));
  for (int i = 0; i < 20; i++) CHECK(client.wait(calls[static_cast<size_t>(i)])["ok"] == i + 1);
  CHECK(eval("order.join('')") == "012345678910111213141516171819");

  CHECK(eval("({n: 20})")["n"] == 20);
  CHECK(eval("_.n + 1") == 21);
  CHECK(eval("let _ = 'mine'; JSON.stringify = () => '!'; JSON.parse = null; 77") == 77);
  CHECK(eval("_") == "mine");
  Json tricky = Json::parse(R"([{"__proto__": {"x": 1}, "\u2028": "\ud83d\ude00"}])");
  CHECK(client.error("denoReplCall", {{"pid", pid}, {"fn", "(a) => a"}, {"args", tricky}}) ==
        "TypeError");  // the code has taken JSON.parse away
  eval("JSON.parse = (text) => eval('(' + text + ')')");
  CHECK(client.call("denoReplCall", {{"pid", pid}, {"fn", "(a, b) => b"}, {"args", {1}}}) ==
        nullptr);

  auto error = [&](const std::string& code) {
    return client.error("denoReplEval", {{"pid", pid}, {"code", code}});
  };
  CHECK(error("10n") == "TypeError");
  CHECK(error("class Mine extends Error { code = 'E5' }; throw new Mine('x')") == "Mine/E5");
  CHECK(error("throw 'text'") == "Error");
  CHECK(client.last_message() == "text");
  CHECK(error("throw undefined") == "Error");
  CHECK(error("Deno.readTextFileSync('/no/such')") == "NotFound/ENOENT");
  CHECK(error("throw new DOMException('stop', 'AbortError')") == "DOMException");
  CHECK(error("let a = []; for (let i = 0; i < 300; i++) a = [a]; a") == "Error");
  CHECK(eval("NaN") == nullptr);
  CHECK(eval("['a\\\\ud800' + String.fromCharCode(0xd800)]") == Json{"a\\ud800\xef\xbf\xbd"});
  CHECK(eval("console.log('out'); 1") == 1);
  Json out = process["stdoutStreamId"];
  CHECK(client.wait_for([&] { return client.stream(out).bytes == "out\n"; }));

  // One that is busy is closed all the same, and what it was asked fails.
  int endless = client.send("denoReplEval", {{"pid", pid}, {"code", "for (;;) {}"}});
  int behind = client.send("denoReplEval", {{"pid", pid}, {"code", "1"}});
  CHECK(client.call("denoReplClose", {{"pid", pid}}) == nullptr);
  CHECK(client.wait(endless)["error"]["code"] == "ENOENT");
  CHECK(client.wait(behind)["error"]["code"] == "ENOENT");
  CHECK(client.call("processWait", {{"pid", pid}})["signal"] == "SIGTERM");
  CHECK(client.error("denoReplEval", {{"pid", pid}, {"code", "1"}}) == "NotFound/ENOENT");
}

TEST_CASE("a REPL that cannot start, and a process that is none") {
  if (is_without_deno()) return;
  Sandbox sandbox(environment());
  RpcClient client(sandbox);
  CHECK(client.error("spawnDenoRepl", {{"env", {{"DENO_V8_FLAGS", "--no-such-flag-at-all"}}},
                                       {"cwd", "/no/such"}}) == "NotFound/ENOENT");
  Json pid = client.call("spawnDeno", {{"code", "await new Promise((r) => setTimeout(r, 9e4))"},
                                       {"extension", "js"}})["pid"];
  CHECK(client.error("denoReplEval", {{"pid", pid}, {"code", "1"}}) == "TypeError");
  CHECK(client.error("denoReplCall", {{"pid", pid}, {"fn", "x"}}) == "TypeError");
  CHECK(client.call("denoReplClose", {{"pid", pid}}) == nullptr);
  CHECK(client.call("processWait", {{"pid", pid}})["code"] == 143);
}

TEST_CASE("Deno runs a file, with input, in a folder") {
  if (is_without_deno()) return;
  Sandbox sandbox(environment());
  RpcClient client(sandbox);
  std::string folder = client.call("makeTempDir");
  client.call("writeTextFile", {{"path", folder + "/-odd.ts"},
                                {"content",
                                 "for await (const b of Deno.stdin.readable) await "
                                 "Deno.stdout.write(b); console.error(Deno.cwd(), Deno.args[0],"
                                 " Deno.env.get('LAYER'), Deno.env.get('CALL'))"}});
  client.call("envSet", {{"key", "LAYER"}, {"value", "layer"}});
  client.start_stream(1);
  client.send_chunk(1, "input");
  client.end_stream(1);
  Json process = client.call("spawnDeno", {{"entrypoint", "-odd.ts"},
                                           {"cwd", folder},
                                           {"stdinStreamId", 1},
                                           {"env", {{"CALL", "call"}}},
                                           {"scriptArgs", {"--watch"}}});
  CHECK(client.call("processWait", {{"pid", process["pid"]}})["code"] == 0);
  CHECK(client.wait_stream(process["stdoutStreamId"]).bytes == "input");
  CHECK(client.wait_stream(process["stderrStreamId"]).bytes == folder + " --watch layer call\n");
  process = client.call("spawnDeno", {{"entrypoint", folder + "/none.ts"}, {"stderr", "null"}});
  CHECK(process["stderrStreamId"].is_null());
  CHECK(client.call("processWait", {{"pid", process["pid"]}})["code"] == 1);
  client.call("remove", {{"path", folder}, {"options", {{"recursive", true}}}});
}

TEST_CASE("a watched server listens again after its restart") {
  if (is_without_deno()) return;
  Sandbox sandbox(environment());
  RpcClient client(sandbox);
  std::string folder = client.call("makeTempDir"), file = folder + "/main.ts",
              other = folder + "/watched.txt";
  client.call("writeTextFile", {{"path", other}, {"content", "0"}});
  client.call("writeTextFile",
              {{"path", file},
               {"content", "const text = Deno.readTextFileSync('" + other +
                               "'); Deno.serve({port: 0}, () => new Response(text))"}});
  CHECK(client.error("spawnDeno", {{"entrypoint", file}, {"watch", {"a,b"}}}) == "TypeError");
  Json process = client.call("spawnDeno", {{"entrypoint", file}, {"watch", {other}}});
  Json pid = process["pid"];
  CHECK(client.call("denoHttpWait", {{"pid", pid}}) == true);
  auto text = [&] {
    Json result = client.wait(client.send("fetch", {{"url", "http://x/"}, {"pid", pid}}));
    return result.contains("ok") ? client.wait_stream(result["ok"]["bodyStreamId"]).bytes : "";
  };
  CHECK(text() == "0");
  for (int i = 1; i < 40 && (client.restarts().empty() || text() == "0"); i++) {
    client.call("writeTextFile", {{"path", other}, {"content", std::to_string(i)}});
    client.run({{"command", "sleep"}, {"args", {"0.5"}}});
  }
  INFO(client.stream(process["stderrStreamId"]).bytes);
  REQUIRE_FALSE(client.restarts().empty());
  CHECK(client.wait_for([&] { return text() != "0"; }));
  stop(client, pid);
  client.call("remove", {{"path", folder}, {"options", {{"recursive", true}}}});
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
  stop(client, process["pid"]);
  client.call("remove", {{"path", folder}, {"options", {{"recursive", true}}}});
}

}  // namespace
}  // namespace hutch::agent::rpc
