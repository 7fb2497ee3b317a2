// A machine that is saved and restored, from the agent's point of view: its processes are stopped,
// its connection is lost, and another host says who it is from now on. Drives the real program.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <filesystem>
#include <string>
#include <thread>

#include "base/sys.h"
#include "guest-agent/freezer.h"
#include "guest-agent/group_folder.h"
#include "guest-agent/test_client.h"

namespace hutch::agent {
namespace {

using namespace protocol::agent;  // NOLINT: the wire's names

constexpr std::chrono::milliseconds kWhile{150};

int parse_int(std::string_view text) {
  int value = -1;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

bool is_there(pid_t process) {
  return ::kill(process, 0) == 0 || errno != ESRCH;
}

void write_text(const std::string& path, std::string_view text) {
  Fd fd = open_file(path, O_WRONLY | O_CREAT, 0644).value();
  REQUIRE(write_all(fd.get(), std::as_bytes(std::span(text))));
}

// Plain files that look like a group which never stops by itself.
class FakeGroups {
 public:
  FakeGroups() {
    char name[] = "/tmp/hutch-agent-test-XXXXXX";
    REQUIRE(::mkdtemp(name) != nullptr);
    path_ = name;
  }
  ~FakeGroups() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  void add(const std::string& name) const {
    REQUIRE(::mkdir((path_ + "/" + name).c_str(), 0755) == 0);
    write_text(path_ + "/" + name + "/cgroup.freeze", "0\n");
    tell(name, false);
  }
  void tell(const std::string& name, bool frozen) const {
    write_text(path_ + "/" + name + "/cgroup.events",
               frozen ? "populated 1\nfrozen 1\n" : "populated 1\nfrozen 0\n");
  }
  void freeze(const std::string& name) const {
    write_text(path_ + "/" + name + "/cgroup.freeze", "1");
    tell(name, true);
  }
  // What an agent looks for in a hierarchy, for its own group.
  void add_agent() const {
    add("hutch");
    write_text(path_ + "/cgroup.controllers", "\n");
    write_text(path_ + "/hutch/cgroup.controllers", "\n");
  }
  const std::string& path() const { return path_; }
  bool is_asked(const std::string& name) const {
    return read_file(path_ + "/" + name + "/cgroup.freeze", 100).value().starts_with('1');
  }
  Fd open() const { return open_file(path_, O_RDONLY | O_DIRECTORY).value(); }

 private:
  std::string path_;
};

// The loop for as long as it takes to answer.
std::string answer_of(Loop& loop, const std::optional<std::string>& answer) {
  while (!answer) REQUIRE(loop.run_once(1000));
  return *answer;
}

TEST_CASE("every group is stopped, also one that appears meanwhile, and let run again") {
  FakeGroups groups;
  groups.add("hutch");
  groups.add("docker");
  auto loop = Loop::create().value();
  Freezer freezer(*loop, groups.open());
  std::optional<std::string> answer;
  freezer.freeze([&](std::string problem) { answer = std::move(problem); });
  CHECK_FALSE(answer);
  CHECK(groups.is_asked("hutch"));
  CHECK(groups.is_asked("docker"));
  groups.tell("hutch", true);
  groups.add("late");
  groups.tell("docker", true);
  REQUIRE(eventually([&] {
    REQUIRE(loop->run_once(10));
    return groups.is_asked("late");
  }));
  CHECK_FALSE(answer);
  groups.tell("late", true);
  CHECK(answer_of(*loop, answer).empty());
  CHECK(freezer.thaw().empty());
  for (const char* name : {"hutch", "docker", "late"}) CHECK_FALSE(groups.is_asked(name));
}

TEST_CASE("what does not stop in time runs again, with the rest") {
  FakeGroups groups;
  groups.add("hutch");
  groups.tell("hutch", true);
  groups.add("stubborn");
  auto loop = Loop::create().value();
  Freezer freezer(*loop, groups.open());
  std::optional<std::string> answer;
  uint64_t start = monotonic_ns();
  freezer.freeze([&](std::string problem) { answer = std::move(problem); });
  CHECK(answer_of(*loop, answer) == "some process did not stop within 2 s");
  CHECK(monotonic_ns() - start >= 1'900'000'000);
  CHECK_FALSE(groups.is_asked("hutch"));
  CHECK_FALSE(groups.is_asked("stubborn"));
}

TEST_CASE("a thaw ends a freeze that is under way, and a second one is refused") {
  FakeGroups groups;
  groups.add("hutch");
  auto loop = Loop::create().value();
  Freezer freezer(*loop, groups.open());
  std::optional<std::string> first, second;
  freezer.freeze([&](std::string problem) { first = std::move(problem); });
  freezer.freeze([&](std::string problem) { second = std::move(problem); });
  CHECK(second == "the processes are being stopped already");
  CHECK(freezer.thaw().empty());
  CHECK(first == "the processes were let run before all had stopped");
  CHECK_FALSE(groups.is_asked("hutch"));
}

TEST_CASE("what somebody else has frozen stays so") {
  FakeGroups groups;
  groups.add("paused");
  groups.freeze("paused");
  auto loop = Loop::create().value();
  Freezer freezer(*loop, groups.open());
  std::optional<std::string> answer;
  freezer.freeze([&](std::string problem) { answer = std::move(problem); });
  CHECK(answer == "");
  CHECK(freezer.thaw().empty());
  CHECK(groups.is_asked("paused"));
}

TEST_CASE("an agent without control groups says that it cannot stop anything") {
  TestClient client;
  client.greet();
  CHECK(client.freeze() == "this agent has no control groups (cgroup v2) to stop processes with");
  CHECK(client.thaw().empty());
  CHECK(client.run_shell("exit 4").exited->value == 4);
}

TEST_CASE("an agent whose processes do not stop serves on, and says so in the end") {
  FakeGroups groups;
  groups.add_agent();
  TestClient client(AgentOptions{.cgroups = groups.path()});
  client.greet();
  client.send(FrameType::kFreeze, 0);
  uint32_t unknown = client.spawn({.arguments = {"true"}, .user = "no-such-user"});
  CHECK(client.wait_for_end(unknown).failed);
  CHECK_FALSE(client.frozen());
  REQUIRE(client.wait([&] { return client.frozen().has_value(); }));
  CHECK(client.frozen()->problem == "some process did not stop within 2 s");
  CHECK_FALSE(groups.is_asked("hutch"));
}

TEST_CASE("a host does not hear the answer to a freeze that the one before it asked for") {
  FakeGroups groups;
  groups.add_agent();
  TestClient client(AgentOptions{.further_connections = 1, .cgroups = groups.path()});
  client.greet();
  client.send(FrameType::kFreeze, 0);
  REQUIRE(eventually([&] { return groups.is_asked("hutch"); }));
  client.lose_connection();
  CHECK(client.greet().problem.empty());
  CHECK_FALSE(groups.is_asked("hutch"));
  CHECK(client.thaw().empty());
  CHECK_FALSE(client.frozen());
}

TEST_CASE("processes stand still from Frozen to Thawed") {
  GroupFolder groups;
  if (!groups.is_given()) return;
  TestClient client(AgentOptions{.cgroups = groups.path()});
  client.greet();
  uint32_t channel = client.shell("while :; do echo x; sleep 0.005; done");
  REQUIRE(client.wait([&] { return client[channel].output[1].size() > 4; }));
  CHECK(client.freeze().empty());
  CHECK(client.freeze().empty());  // it is so already
  size_t before = client[channel].output[1].size();
  std::this_thread::sleep_for(kWhile);
  CHECK(client.freeze().empty());  // behind all that was written meanwhile
  CHECK(client[channel].output[1].size() <= before + 2);
  CHECK(client.thaw().empty());
  CHECK(client.wait([&] { return client[channel].output[1].size() > before + 4; }));
  // One that is stopped can be ended all the same.
  CHECK(client.freeze().empty());
  auto process = static_cast<pid_t>(client[channel].started->process_id);
  client.send(FrameType::kClose, channel);
  CHECK(eventually([&] { return !is_there(process); }));
  CHECK(client.thaw().empty());
}

TEST_CASE("operations of a lost connection are held until the next Hello, then end") {
  TestClient client(AgentOptions{.further_connections = 1});
  client.greet();
  uint32_t channel = client.shell("echo $$; while :; do echo more; sleep 0.001; done");
  REQUIRE(client.wait([&] { return client[channel].output[1].size() > 1000; }));
  pid_t shell = parse_int(client[channel].output[1]);
  client.lose_connection();
  std::this_thread::sleep_for(kWhile);
  CHECK(is_there(shell));
  HelloReply reply = client.greet();
  CHECK_FALSE(reply.adopted);
  CHECK_FALSE(reply.reseeded);  // this agent owns no system
  CHECK(reply.problem.empty());
  CHECK(eventually([&] { return !is_there(shell); }));
  CHECK(client.run_shell("exit 3").exited->value == 3);
  CHECK(client[channel].output[1].empty());
  CHECK(client.hang_up() == 0);
  CHECK(client.log().empty());
}

TEST_CASE("the agent ends as ever when nobody answers its second call") {
  TestClient client(AgentOptions{.further_connections = 1});
  client.greet();
  uint32_t channel = client.shell("echo $$; exec sleep 1000");
  REQUIRE(client.wait([&] { return !client[channel].output[1].empty(); }));
  pid_t sleeper = parse_int(client[channel].output[1]);
  CHECK(client.hang_up() == 0);  // both connections
  CHECK(client.log().empty());
  CHECK(eventually([&] { return !is_there(sleeper); }));
}

TEST_CASE("a host that breaks the protocol is not called again") {
  TestClient client(AgentOptions{.further_connections = 1});
  client.greet();
  client.send_message(FrameType::kHello, 0, Hello{});
  CHECK(client.wait_for_hang_up());
  client.lose_connection();
  CHECK(client.wait_for_hang_up());
  CHECK(WEXITSTATUS(client.hang_up()) == 1);
}

// The service of a sandbox, under a name of the test's own.
uint32_t start_service(TestClient& client) {
  static int number = 0;
  uint32_t channel = client.spawn(
      {.arguments = {"rpc", fmt::format("hutch-fork-test-{}-{}", ::getpid(), number++)},
       .user = self(),
       .open_input = true,
       .agent_program = true});
  REQUIRE(client.wait([&] { return client[channel].output[1] == "ready\n"; }));
  return channel;
}

// Whether the adopted service takes input, gives its credit back, and ends as it should.
void check_adopted(TestClient& client) {
  const std::string block(kMaxPayload, 'x');
  for (uint32_t sent = 0; sent < kInitialCredit; sent += kMaxPayload)
    client.send_text(FrameType::kInput, kAdoptedChannel, block);
  CHECK(client.wait([&] { return client[kAdoptedChannel].input_credit == kInitialCredit; }));
  CHECK_FALSE(client[kAdoptedChannel].ended[1]);
  CHECK_FALSE(client[kAdoptedChannel].ended[2]);
  client.send(FrameType::kInputEnd, kAdoptedChannel);
  const Answer& answer = client.wait_for_end(kAdoptedChannel);
  REQUIRE(answer.exited);
  CHECK(answer.exited->value == 0);
  CHECK(answer.output[1].empty());
}

TEST_CASE("an adopted service is channel 1 of the next connection, and all else ends") {
  TestClient client(AgentOptions{.further_connections = 2});
  client.greet();
  uint32_t other = client.shell("echo $$; exec sleep 1000");
  REQUIRE(client.wait([&] { return !client[other].output[1].empty(); }));
  pid_t sleeper = parse_int(client[other].output[1]);
  uint32_t channel = start_service(client);
  auto service = static_cast<pid_t>(client[channel].started->process_id);
  // Part of its credit is spent: the adopted one begins anew.
  client.send_text(FrameType::kInput, channel, std::string(1000, 'x'));
  client.lose_connection();
  CHECK(client.greet({.adopt = true}).adopted);
  CHECK(eventually([&] { return !is_there(sleeper); }));
  CHECK(is_there(service));
  CHECK(client.run_shell("exit 3").exited->value == 3);
  // As often as the machine is restored.
  client.lose_connection();
  CHECK(client.greet({.adopt = true}).adopted);
  CHECK(is_there(service));
  check_adopted(client);
}

TEST_CASE("without a service, or with one that has ended, nothing is adopted") {
  TestClient client(AgentOptions{.further_connections = 2});
  CHECK_FALSE(client.greet({.adopt = true}).adopted);
  uint32_t channel = client.spawn(
      {.arguments = {"rpc", "a", "b"}, .user = self(), .open_input = true, .agent_program = true});
  client.wait_for_end(channel);  // it does not take these words
  client.lose_connection();
  CHECK_FALSE(client.greet({.adopt = true}).adopted);
  channel = start_service(client);
  client.send(FrameType::kInputEnd, channel);
  client.lose_connection();
  CHECK_FALSE(client.greet({.adopt = true}).adopted);
}

TEST_CASE("of two services none is adopted") {
  TestClient client(AgentOptions{.further_connections = 1});
  client.greet();
  uint32_t channels[] = {start_service(client), start_service(client)};
  std::vector<pid_t> services;
  for (uint32_t channel : channels)
    services.push_back(static_cast<pid_t>(client[channel].started->process_id));
  client.lose_connection();
  CHECK_FALSE(client.greet({.adopt = true}).adopted);
  for (pid_t service : services) CHECK(eventually([&] { return !is_there(service); }));
}

TEST_CASE("what is frozen stays so over the loss of the connection, until the next Hello") {
  GroupFolder groups;
  if (!groups.is_given()) return;
  TestClient client(AgentOptions{.further_connections = 1, .cgroups = groups.path()});
  client.greet();
  uint32_t channel = start_service(client);
  auto service = static_cast<pid_t>(client[channel].started->process_id);
  uint32_t other = client.shell("echo $$; exec sleep 1000");
  REQUIRE(client.wait([&] { return !client[other].output[1].empty(); }));
  pid_t sleeper = parse_int(client[other].output[1]);
  CHECK(client.freeze().empty());
  client.lose_connection();
  std::this_thread::sleep_for(kWhile);
  CHECK(groups.is_frozen());
  CHECK(is_there(sleeper));
  CHECK(client.greet({.adopt = true}).adopted);
  CHECK_FALSE(groups.is_frozen());
  CHECK(is_there(service));
  CHECK(eventually([&] { return !is_there(sleeper); }));
  check_adopted(client);
}

}  // namespace
}  // namespace hutch::agent
