// Drives the service as the control plane does, through the real agent program.
#include <doctest/doctest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <iterator>
#include <set>

#include "base/sys.h"
#include "guest-agent/rpc/codecs.h"
#include "guest-agent/rpc/rpc_client.h"

namespace hutch::agent::rpc {
namespace {

Json shell(const std::string& script) {
  return {{"command", "sh"}, {"args", {"-c", script}}, {"stdout", "piped"}, {"stderr", "piped"}};
}

TEST_CASE("a process runs, and its output and end come") {
  Sandbox sandbox;
  RpcClient client(sandbox);
  Json process = client.call("spawn", shell("echo out; echo err >&2; exit 3"));
  uint64_t base = uint64_t{7} << 20;
  CHECK(process["pid"].get<int>() > 1);
  CHECK(process["stdoutStreamId"].get<uint64_t>() >= base);
  CHECK(process["stdoutStreamId"].get<uint64_t>() < base + (1 << 20));
  CHECK(process["stderrStreamId"] != process["stdoutStreamId"]);
  Json exit = client.call("processWait", {{"pid", process["pid"]}});
  CHECK(exit == Json{{"success", false}, {"code", 3}, {"signal", nullptr}, {"oom", nullptr}});
  CHECK(client.wait_stream(process["stdoutStreamId"]).bytes == "out\n");
  CHECK(client.wait_stream(process["stderrStreamId"]).bytes == "err\n");
  // It can be asked for again.
  CHECK(client.call("processWait", {{"pid", process["pid"]}}) == exit);
  CHECK(client.error("processWait", {{"pid", 99999999}}) == "NotFound/ENOENT");
}

TEST_CASE("a process is started with the umask that a client set") {
  Sandbox sandbox;
  RpcClient client(sandbox);
  auto mask = [&] {
    Json process = client.call("spawn", shell("umask"));
    client.call("processWait", {{"pid", process["pid"]}});
    return client.wait_stream(process["stdoutStreamId"]).bytes;
  };
  CHECK(mask() == "0022\n");
  CHECK(client.call("umask", {{"mask", 027}}) == 022);
  CHECK(mask() == "0027\n");
}

TEST_CASE("output waits for the client to listen, but not for ever") {
  Sandbox sandbox;
  RpcClient client(sandbox);
  Json process = client.call("spawn", shell("echo early; sleep 0.3"));
  CHECK_FALSE(client.stream(process["stdoutStreamId"]).started);
  CHECK(
      client.wait_for([&] { return client.stream(process["stdoutStreamId"]).bytes == "early\n"; }));
}

TEST_CASE("a process that a signal ends says so") {
  Sandbox sandbox;
  RpcClient client(sandbox);
  Json process = client.call("spawn", shell("exec sleep 100"));
  int waiting = client.send("processWait", {{"pid", process["pid"]}});
  CHECK(client.error("processKill", {{"pid", process["pid"]}, {"signal", "SIGNOPE"}}) ==
        "TypeError");
  CHECK(client.call("processKill", {{"pid", process["pid"]}}) == nullptr);
  CHECK(client.wait(waiting)["ok"] ==
        Json{{"success", false}, {"code", 143}, {"signal", "SIGTERM"}, {"oom", nullptr}});
  CHECK(client.error("processKill", {{"pid", process["pid"]}}) == "TypeError/ENOENT");
}

TEST_CASE("a program that is not there, or may not run, is the call's error") {
  Sandbox sandbox;
  RpcClient client(sandbox);
  CHECK(client.error("spawn", {{"command", "no-such-program"}}) == "NotFound/ENOENT");
  CHECK(client.last_message() == "Failed to spawn 'no-such-program': entity not found");
  CHECK(client.error("spawn", {{"command", "/etc/passwd"}}) == "PermissionDenied/EACCES");
  CHECK(client.error("spawn", {{"command", "true"}, {"cwd", "/no/such"}}) == "NotFound/ENOENT");
  CHECK(client.last_message().find("No such cwd '/no/such'") != std::string::npos);
  CHECK(client.error("spawn", {{"args", Json::array()}}) == "TypeError");
  CHECK(client.last_message() == "\"command\" must be a string");
  CHECK(client.error("spawn", {{"command", "true"}, {"stdout", "inherit"}}) == "TypeError");
  CHECK(client.error("spawn", {{"command", "true"}, {"stdinStreamId", 5}}) == "TypeError");
  CHECK(client.error("spawn", {{"command", "true"}, {"args", {std::string(70000, 'a')}}}) ==
        "Error/E2BIG");
}

TEST_CASE("a process has the directory and the streams that it was given") {
  Sandbox sandbox;
  RpcClient client(sandbox);
  CHECK(client.run({{"command", "pwd"}, {"cwd", "/usr"}}) == "/usr\n");
  Json silent = client.call("spawn", {{"command", "echo"}, {"stdout", "null"}, {"stderr", "null"}});
  CHECK(silent["stdoutStreamId"].is_null());
  CHECK(silent["stderrStreamId"].is_null());
  CHECK(client.call("processWait", {{"pid", silent["pid"]}})["success"] == true);
  // Without a stream its input is empty.
  CHECK(client.run({{"command", "cat"}}) == "");
}

TEST_CASE("input reaches a process, and one that ends gives it back") {
  Sandbox sandbox;
  RpcClient client(sandbox);
  std::string sent(2'000'000, 'x');
  client.start_stream(3);
  client.send_chunk(3, "first ");
  Json process = client.call("spawn", {{"command", "cat"}, {"stdinStreamId", 3}});
  int waiting = client.send("processWait", {{"pid", process["pid"]}});
  client.send_chunk(3, sent);
  client.send_chunk(3, sent);
  client.end_stream(3);
  CHECK(client.wait(waiting)["ok"]["code"] == 0);
  CHECK(client.wait_stream(process["stdoutStreamId"]).bytes == "first " + sent + sent);

  client.start_stream(3);  // the number again
  process = client.call("spawn", {{"command", "true"}, {"stdinStreamId", 3}});
  client.call("processWait", {{"pid", process["pid"]}});
  CHECK(client.wait_for([&] { return client.cancels().size() == 1; }));
  CHECK(client.cancels()[0]["streamId"] == 3);
  CHECK(client.cancels()[0]["reason"]["constructorName"] == "BrokenPipe");
  CHECK(client.cancels()[0]["reason"]["code"] == "EPIPE");
}

TEST_CASE("a process stops when nobody reads its output, and goes on afterwards") {
  Sandbox sandbox;
  RpcClient client(sandbox);
  Json process = client.call("spawn", shell("dd if=/dev/zero bs=65536 count=200 2>/dev/null"));
  client.call("processWait", {{"pid", process["pid"]}});
  CHECK(client.wait_stream(process["stdoutStreamId"]).bytes.size() == 200 * 65536);
}

TEST_CASE("after a cancel nothing more of the stream comes, and the process lives on") {
  Sandbox sandbox;
  RpcClient client(sandbox);
  Json process = client.call("spawn", shell("yes | head -c 3000000; exit 4"));
  int waiting = client.send("processWait", {{"pid", process["pid"]}});
  Json id = process["stdoutStreamId"];
  REQUIRE(client.wait_for([&] { return client.stream(id).bytes.size() > 0; }));
  client.notify("$sandbox.stream.cancel", {{"streamId", id}, {"reason", nullptr}});
  CHECK(client.wait(waiting)["ok"]["code"] == 4);
  client.call("envGet", {{"key", "HOME"}});
  CHECK_FALSE(client.stream(id).ended);
}

TEST_CASE("the environment: what the service has, what was set, what the call says") {
  Sandbox sandbox({"BASE=from the start", "SECRET=placeholder"});
  RpcClient client(sandbox), other(sandbox, uint64_t{9} << 20);
  CHECK(client.call("envGet", {{"key", "BASE"}}) == "from the start");
  CHECK(client.call("envGet", {{"key", "NOT_THERE"}}) == nullptr);
  CHECK(client.call("envSet", {{"key", "LAYER"}, {"value", "a=b\n"}}) == nullptr);
  CHECK(other.call("envGet", {{"key", "LAYER"}}) == "a=b\n");
  CHECK(client.call("envDelete", {{"key", "SECRET"}}) == nullptr);
  CHECK(client.call("envDelete", {{"key", "SECRET"}}) == nullptr);
  Json all = other.call("envToObject");
  CHECK(all["LAYER"] == "a=b\n");
  CHECK(all["HOME"].get<std::string>().substr(0, 1) == "/");
  CHECK_FALSE(all.contains("SECRET"));
  CHECK(client.error("envSet", {{"key", "A=B"}, {"value", ""}}) == "TypeError");
  CHECK(client.error("envSet", {{"key", "A"}}) == "TypeError");
  CHECK(client.error("envGet", {{"key", 5}}) == "TypeError");
  CHECK(client.error("envDelete", {{"key", ""}}) == "TypeError");

  Json printenv = shell("printf %s \"$BASE/$LAYER/$CALL/$SECRET\"");
  printenv["env"] = {{"BASE", "replaced"}, {"CALL", "mine"}};
  CHECK(client.run(printenv) == "replaced/a=b\n/mine/");
  CHECK(client.run({{"command", "env"}, {"clearEnv", true}, {"env", {{"ONLY", "this"}}}}) ==
        "ONLY=this\n");
  CHECK(client.error("spawn", {{"command", "env"}, {"env", {{"A", 1}}}}) == "TypeError");
}

TEST_CASE("clients come and go, and what they started stays") {
  Sandbox sandbox;
  RpcClient first(sandbox), second(sandbox, uint64_t{9} << 20);
  Json process = first.call("spawn", shell("sleep 0.2; yes | head -c 1000000; exit 5"));
  int waiting = second.send("processWait", {{"pid", process["pid"]}});
  first.close();
  CHECK(sandbox.agent.wait_for_end(first.channel()).exited->value == 0);
  CHECK(second.wait(waiting)["ok"]["code"] == 5);
}

TEST_CASE("the service ends with its input, and its clients with it") {
  Sandbox sandbox;
  RpcClient client(sandbox);
  Json process = client.call("spawn", shell("exec sleep 100"));
  sandbox.agent.send(protocol::agent::FrameType::kInputEnd, sandbox.service_channel);
  CHECK(sandbox.agent.wait_for_end(sandbox.service_channel).exited->value == 0);
  CHECK(sandbox.agent.wait_for_end(client.channel()).exited->value == 0);
  pid_t id = process["pid"];
  CHECK(eventually([&] { return ::kill(id, 0) < 0; }));
}

TEST_CASE("a client that breaks the framing is dropped, what is no call is not answered") {
  Sandbox sandbox;
  SUBCASE("an empty piece") {
    RpcClient client(sandbox);
    client.send_raw(std::string(4, '\0'));
    CHECK(sandbox.agent.wait_for_end(client.channel()).exited->value == 0);
  }
  SUBCASE("an endless piece") {
    RpcClient client(sandbox);
    client.send_raw("\xff\xff\xff\x7f");
    CHECK(sandbox.agent.wait_for_end(client.channel()).exited->value == 0);
  }
  SUBCASE("no JSON, then a call") {
    RpcClient client(sandbox);
    client.send_raw(std::string("\x03\0\0\0{{{", 7));
    client.send_raw(std::string("\x02\0\0\0[]", 6));
    std::string deep(2000, '[');
    client.send_raw(std::string("\xd0\x07\0\0", 4) + deep);
    CHECK(client.call("envGet", {{"key", "NO"}}) == nullptr);
  }
  RpcClient next(sandbox, uint64_t{9} << 20);
  CHECK(next.error("noSuchMethod") == "TypeError");
  CHECK(next.last_message() == "Method not found: noSuchMethod");
  CHECK(next.error("exposeHttp", {{"domain", "x"}, {"port", 1}}) == "Error/NOT_SUPPORTED");
  CHECK(next.error("vscode", {{"path", "/"}}) == "Error/NOT_SUPPORTED");
}

TEST_CASE("abort ends a call, and is always right") {
  Sandbox sandbox;
  RpcClient client(sandbox);
  CHECK(client.call("abort", {{"abortId", 77}}) == nullptr);
  char name[] = "/tmp/hutch-rpc-test-XXXXXX";
  REQUIRE(::mkdtemp(name) != nullptr);
  std::string fifo = std::string(name) + "/fifo";
  REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
  int reading = client.send("readFile", {{"path", fifo}, {"abortId", 5}});
  int writing = client.send(
      "writeFile", {{"path", std::string(name) + "/f"}, {"contentStreamId", 9}, {"abortId", 6}});
  CHECK(client.wait(writing)["error"]["constructorName"] == "TypeError");
  client.start_stream(9);
  writing = client.send(
      "writeFile", {{"path", std::string(name) + "/f"}, {"contentStreamId", 9}, {"abortId", 6}});
  CHECK(client.call("abort", {{"abortId", 5}}) == nullptr);
  Json error = client.wait(reading)["error"];
  CHECK(error["constructorName"] == "DOMException");
  CHECK(error["name"] == "AbortError");
  CHECK_FALSE(error.contains("code"));
  CHECK_FALSE(client.has_answer(writing));
  // When it waits for more.
  client.send_chunk(9, "text");
  CHECK(eventually([&] { return read_file(std::string(name) + "/f", 10) == "text"; }));
  CHECK(client.call("abort", {{"abortId", 6}}) == nullptr);
  CHECK(client.wait(writing)["error"]["name"] == "AbortError");
  CHECK(client.cancels().size() == 1);
  // The file of the call that was given up is closed.
  auto holds_file = [&] {
    auto id = sandbox.agent[sandbox.service_channel].started;
    std::error_code gone;  // a descriptor that is closed while this looks
    for (const auto& fd :
         std::filesystem::directory_iterator("/proc/" + std::to_string(id->process_id) + "/fd"))
      if (std::filesystem::read_symlink(fd, gone) == std::string(name) + "/f") return true;
    return false;
  };
  CHECK(eventually([&] { return !holds_file(); }));
  std::filesystem::remove_all(name);
}

TEST_CASE("every method of the protocol is there") {
  Sandbox sandbox({"PATH=/nowhere"});
  RpcClient client(sandbox);
  const char* methods[] = {
      "abort",        "readFile",     "readTextFile", "writeFile",     "writeTextFile",
      "readDir",      "remove",       "mkdir",        "rename",        "stat",
      "chmod",        "chown",        "copyFile",     "link",          "lstat",
      "makeTempDir",  "makeTempFile", "readLink",     "realPath",      "symlink",
      "truncate",     "umask",        "utime",        "open",          "create",
      "fileClose",    "fileLock",     "fileRead",     "fileSeek",      "fileStat",
      "fileSync",     "fileSyncData", "fileTruncate", "fileUnlock",    "fileUtime",
      "fileWrite",    "walk",         "expandGlob",   "spawn",         "processWait",
      "processKill",  "spawnDeno",    "denoHttpWait", "spawnDenoRepl", "denoReplClose",
      "denoReplEval", "denoReplCall", "fetch",        "exposeHttp",    "vscode",
      "envGet",       "envSet",       "envToObject",  "envDelete"};
  CHECK(std::size(methods) == 54);
  for (const char* method : methods) {
    INFO(method);
    // Of the wrong type, all that have one want to know; the others have an answer.
    Json wrong{{"path", 1}, {"options", {{"dir", "/no/such"}}}, {"mask", "x"}};
    Json result = client.wait(client.send(method, wrong));
    bool has_no_parameters = std::string(method) == "abort" || std::string(method) == "envToObject";
    CHECK(result.contains("ok") == has_no_parameters);
    if (result.contains("error"))
      CHECK(result["error"]["message"].get<std::string>().find("Method not found") ==
            std::string::npos);
  }
}

TEST_CASE("what no client can read is not said") {
  Sandbox sandbox({"BAD=\xff\xfe"});
  RpcClient client(sandbox);
  auto send_raw = [&](const std::string& text) {
    std::string size{static_cast<char>(text.size() & 0xff), static_cast<char>(text.size() >> 8), 0,
                     0};
    client.send_raw(size + text);
  };
  // These have no answer; the calls behind them do.
  for (const char* id : {"null", "{}", "[1]", "true"})
    send_raw(R"({"jsonrpc":"2.0","id":)" + std::string(id) + R"(,"method":"envToObject"})");
  send_raw(R"({"jsonrpc":"2.0","id":")" + std::string(200, 'i') + R"(","method":"envToObject"})");
  CHECK(client.call("envGet", {{"key", "BAD"}}) == "\xef\xbf\xbd\xef\xbf\xbd");

  std::string deep = R"({"jsonrpc":"2.0","params":{"a":)" + std::string(600, '[') +
                     std::string(600, ']') + R"(},"id":77,"method":"envToObject"})";
  send_raw(deep);
  Json result = client.wait(77);
  CHECK(result["error"]["constructorName"] == "TypeError");

  CHECK(client.error("stat", {{"path", std::string(2'000'000, 'p')}}) == "Error/ENAMETOOLONG");
  CHECK(client.last_message().size() < 70'000);
  CHECK(client.error("noSuchMethod" + std::string(2'000'000, '\n')) == "TypeError");
  CHECK(client.error("spawn", {{"command", std::string(60'000, 'c')}}) == "Error/ENAMETOOLONG");

  std::string folder = client.call("makeTempDir"), name = "odd\xff name";
  REQUIRE(::mkdir((folder + "/" + name).c_str(), 0700) == 0);
  REQUIRE(::symlink("to\xfe", (folder + "/link").c_str()) == 0);
  CHECK(client.call("readLink", {{"path", folder + "/link"}}) == "to\xef\xbf\xbd");
  std::set<std::string> names;
  for (const Json& entry : client.call("readDir", {{"path", folder}})) names.insert(entry["name"]);
  CHECK(names == std::set<std::string>{"link", "odd\xef\xbf\xbd name"});
  Json id = client.call("walk", {{"path", folder}})["streamId"];
  CHECK(client.wait_stream(id).chunks.size() == 3);
  for (const std::string& chunk : client.stream(id).chunks) CHECK(Json::accept(chunk));
  // Control characters: as text they are longer than any answer.
  client.run(shell("head -c 20000000 /dev/zero > " + folder + "/zeros"));
  CHECK(client.error("readTextFile", {{"path", folder + "/zeros"}}) == "Error/EFBIG");
  CHECK(client.call("readFile", {{"path", folder + "/zeros"}}).get<std::string>().size() ==
        26'666'668);
  std::filesystem::remove_all(folder);

  std::string groups(100'000, '(');
  CHECK(client.error("walk", {{"path", "/"}, {"match", {{{"source", groups}, {"flags", ""}}}}}) ==
        "SyntaxError");
  CHECK(client.error("expandGlob", {{"glob", std::string(100'000, '{')}}) == "SyntaxError");
}

TEST_CASE("a call that fails gives back the stream that it names") {
  Sandbox sandbox({"PATH=/nowhere"});
  RpcClient client(sandbox);
  client.start_stream(5);
  client.send_chunk(5, "data");
  CHECK(client.error("spawn", {{"stdinStreamId", 5}}) == "TypeError");
  REQUIRE(client.wait_for([&] { return client.cancels().size() == 1; }));
  CHECK(client.cancels()[0]["streamId"] == 5);
  CHECK(client.cancels()[0]["reason"]["constructorName"] == "TypeError");
  // The number can come again.
  client.start_stream(5);
  CHECK(client.error("spawnDenoRepl", {{"stdinStreamId", 5}}) == "NotFound/ENOENT");
  REQUIRE(client.wait_for([&] { return client.cancels().size() == 2; }));
  CHECK(client.cancels()[1]["reason"]["code"] == "ENOENT");
}

}  // namespace
}  // namespace hutch::agent::rpc
