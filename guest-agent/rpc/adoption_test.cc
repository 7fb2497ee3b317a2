// The service of a machine that was saved and restored: it outlives its connection, with what it
// started, and what it starts from then on belongs to the machine's new name.
#include <doctest/doctest.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>

#include "guest-agent/rpc/rpc_client.h"

namespace hutch::agent::rpc {
namespace {

bool is_there(pid_t process) {
  return ::kill(process, 0) == 0 || errno != ESRCH;
}

TEST_CASE("an adopted service keeps its processes and gives new ones the new environment") {
  Sandbox sandbox({"DENO_SANDBOX_ID=sbx_template", "KEPT=1"}, {.further_connections = 1});
  pid_t attached = 0, sleeper = 0;
  {
    RpcClient before(sandbox);
    CHECK(before.run({{"command", "sh"}, {"args", {"-c", "echo $DENO_SANDBOX_ID"}}}) ==
          "sbx_template\n");
    before.call("envSet", {{"key", "SET"}, {"value", "2"}});
    sleeper = before.call("spawn", {{"command", "sleep"}, {"args", {"1000"}}})["pid"].get<int>();
    attached = static_cast<pid_t>(sandbox.agent[before.channel()].started->process_id);
  }
  sandbox.agent.lose_connection();
  auto reply = sandbox.agent.greet(
      {.adopt = true, .service_environment = {"DENO_SANDBOX_ID=sbx_fork", "NEW=a=b"}});
  REQUIRE(reply.adopted);
  CHECK(eventually([&] { return !is_there(attached); }));
  CHECK(is_there(sleeper));

  RpcClient after(sandbox);
  CHECK(after.run({{"command", "sh"}, {"args", {"-c", "echo $DENO_SANDBOX_ID $KEPT $SET $NEW"}}}) ==
        "sbx_fork 1 2 a=b\n");
  CHECK(after.call("envGet", {{"key", "DENO_SANDBOX_ID"}}) == "sbx_fork");
  int waiting = after.send("processWait", {{"pid", sleeper}});
  after.call("processKill", {{"pid", sleeper}, {"signal", "SIGKILL"}});
  CHECK(after.wait(waiting)["ok"]["signal"] == "SIGKILL");
  CHECK(sandbox.agent.hang_up() == 0);
  CHECK(eventually([&] { return !is_there(sleeper); }));
}

TEST_CASE("a service that is not adopted ends, with what it started") {
  Sandbox sandbox({}, {.further_connections = 1});
  RpcClient before(sandbox);
  pid_t sleeper =
      before.call("spawn", {{"command", "sleep"}, {"args", {"1000"}}})["pid"].get<int>();
  sandbox.agent.lose_connection();
  CHECK(is_there(sleeper));
  CHECK_FALSE(sandbox.agent.greet().adopted);
  CHECK(eventually([&] { return !is_there(sleeper); }));
}

}  // namespace
}  // namespace hutch::agent::rpc
