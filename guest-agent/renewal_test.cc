// What a Hello sets in the system that an agent owns, seen through the protocol. Root only: the
// agent has mounts of its own.
#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

#include "guest-agent/group_folder.h"
#include "guest-agent/test_client.h"

namespace hutch::agent {
namespace {

using namespace protocol::agent;  // NOLINT: the wire's names

Hello renewing_hello() {
  Hello hello;
  hello.entropy = std::string(256, 'x');
  hello.machine_id = "0123456789abcdef0123456789abcdef";
  hello.boot_id = "01234567-89ab-4cde-8f01-23456789abcd";
  hello.adopt = true;
  return hello;
}

TEST_CASE("a restored machine has its random numbers and names before anything runs in it") {
  GroupFolder groups;
  if (!groups.is_given() || !can_own_system()) return;
  TestClient client({.further_connections = 2, .cgroups = groups.path(), .owns_system = true});
  HelloReply first = client.greet();
  CHECK_FALSE(first.reseeded);
  CHECK(first.problem.empty());
  client.spawn({.arguments = {"rpc", fmt::format("hutch-renewal-test-{}", ::getpid())},
                .user = self(),
                .open_input = true,
                .agent_program = true});
  REQUIRE(client.wait([&] { return client[1].output[1] == "ready\n"; }));
  CHECK(client.freeze().empty());
  client.lose_connection();
  HelloReply reply = client.greet(renewing_hello());
  CHECK(reply.reseeded);
  CHECK(reply.adopted);
  CHECK(reply.problem.empty());
  CHECK_FALSE(groups.is_frozen());
  auto names = [&] {
    return client.run_shell("cat /etc/machine-id /proc/sys/kernel/random/boot_id").output[1];
  };
  CHECK(names() == "0123456789abcdef0123456789abcdef\n01234567-89ab-4cde-8f01-23456789abcd\n");

  // A restored machine can be saved, too.
  CHECK(client.freeze().empty());
  client.lose_connection();
  Hello again = renewing_hello();
  again.machine_id[0] = again.boot_id[0] = 'f';
  CHECK(client.greet(again).adopted);
  CHECK(names() == "f123456789abcdef0123456789abcdef\nf1234567-89ab-4cde-8f01-23456789abcd\n");
}

TEST_CASE("a restored machine whose name cannot be set says so, and nothing in it runs") {
  GroupFolder groups;
  if (!groups.is_given() || !can_own_system()) return;
  TestClient client({.further_connections = 2, .cgroups = groups.path(), .owns_system = true});
  client.greet();
  CHECK(client.run_shell("mkdir -p /etc/machine-id/x").exited->value == 0);
  client.spawn({.arguments = {"rpc", fmt::format("hutch-renewal-test-{}", ::getpid())},
                .user = self(),
                .open_input = true,
                .agent_program = true});
  REQUIRE(client.wait([&] { return client[2].output[1] == "ready\n"; }));
  CHECK(client.freeze().empty());
  client.lose_connection();
  HelloReply reply = client.greet(renewing_hello());
  CHECK(reply.reseeded);
  CHECK(reply.problem == "replacing /etc/machine-id: Is a directory");
  CHECK(client.wait_for_hang_up());
  CHECK(WEXITSTATUS(client.hang_up()) == 1);
  CHECK(client.log() ==
        "hutch-agent: fatal: setting who the machine is: replacing /etc/machine-id: Is a "
        "directory\n");
  CHECK(groups.is_frozen());
}

}  // namespace
}  // namespace hutch::agent
