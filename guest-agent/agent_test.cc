// Drives the real program over a socket, as the host does. Runs as root and as an ordinary user;
// where the two differ, the test says what each must see.
#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <thread>

#include "base/sys.h"
#include "guest-agent/test_client.h"

namespace hutch::agent {
namespace {

using namespace protocol::agent;  // NOLINT: the wire's names

const bool kIsRoot = ::geteuid() == 0;

// A folder that everybody may enter and that goes when the test ends.
class Folder {
 public:
  Folder() {
    char name[] = "/tmp/hutch-agent-test-XXXXXX";
    REQUIRE(::mkdtemp(name) != nullptr);
    REQUIRE(::chmod(name, 0755) == 0);
    path_ = name;
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

std::string contents(const std::string& path) {
  return read_file(path, 64 * 1024 * 1024).value();
}

void write_file(const std::string& path, std::string_view text, mode_t mode = 0644) {
  Fd fd = open_file(path, O_WRONLY | O_CREAT | O_TRUNC, mode).value();
  REQUIRE(write_all(fd.get(), std::as_bytes(std::span(text))));
  REQUIRE(::fchmod(fd.get(), mode) == 0);
}

int parse_int(std::string_view text) {
  int value = -1;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

bool is_there(pid_t process) {
  return ::kill(process, 0) == 0 || errno != ESRCH;
}

struct Child {
  pid_t process;
  char state;
};

// The children of `parent`, zombies too.
std::vector<Child> children_of(pid_t parent) {
  std::vector<Child> children;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    int process = parse_int(entry.path().filename().string());
    if (process <= 0) continue;
    auto text = read_file(entry.path() / "stat", 4096);
    if (!text) continue;  // gone meanwhile
    size_t end = text->rfind(')');
    if (end == std::string::npos || end + 4 > text->size()) continue;
    if (parse_int(std::string_view(*text).substr(end + 4)) == parent)
      children.push_back({process, (*text)[end + 2]});
  }
  return children;
}

// Kilobytes of memory that a process holds.
long resident_kib(pid_t process) {
  std::string text = contents("/proc/" + std::to_string(process) + "/status");
  size_t at = text.find("VmRSS:");
  REQUIRE(at != std::string::npos);
  at = text.find_first_not_of(" \t", at + 6);
  return parse_int(std::string_view(text).substr(at));
}

// What the agent may hold above what it began with: far less than the credit of 100 processes.
constexpr long kGrowthKib = 12 * 1024;

// Bytes in which a lost, doubled or moved block shows.
std::string noise(size_t size) {
  std::string text(size, '\0');
  uint32_t state = 12345;
  for (char& byte : text) {
    state = state * 1664525 + 1013904223;
    byte = static_cast<char>(state >> 24);
  }
  return text;
}

TEST_CASE("the agent greets with its version and the kernel's release") {
  TestClient client;
  HelloReply reply = client.greet();
  utsname system{};
  REQUIRE(::uname(&system) == 0);
  CHECK(reply.version == kVersion);
  CHECK(reply.kernel == system.release);
  CHECK(client.hang_up() == 0);
  CHECK(client.log().empty());
}

TEST_CASE("a host that breaks the protocol is dropped") {
  TestClient client;
  const char* reason = nullptr;
  SUBCASE("by another frame than Hello") {
    reason = "does not begin with Hello";
    client.shell("true");
  }
  SUBCASE("by Hello on a channel") {
    reason = "does not begin with Hello";
    client.send_message(FrameType::kHello, 1, Hello{});
  }
  SUBCASE("by a truncated Hello") {
    reason = "Hello is shorter than its fields";
    client.send_text(FrameType::kHello, 0, "abc");
  }
  SUBCASE("by another version, and learns ours") {
    reason = "the host speaks version 77 of the protocol, this agent 3";
    CHECK(client.greet({.version = 77}).version == kVersion);
  }
  SUBCASE("after Hello") {
    client.greet();
    SUBCASE("by a second Hello") {
      reason = "a frame of type 1 on channel 0";
      client.send_message(FrameType::kHello, 0, Hello{});
    }
    SUBCASE("by a frame of the agent") {
      reason = "a frame of type 70 from the host";
      client.send_message(FrameType::kExited, 1, Exited{});
    }
    SUBCASE("by no frame at all") {
      reason = "a frame of 1633771873 bytes; at most 65536 are allowed";
      client.send_raw(std::as_bytes(std::span("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")));
    }
    SUBCASE("by an unknown type") {
      reason = "a frame of unknown type 42";
      client.send(static_cast<FrameType>(42), 1);
    }
    SUBCASE("by a channel that is in use") {
      reason = "channel 1 is in use";
      uint32_t channel = client.shell("sleep 1000");
      client.send_message(FrameType::kSpawn, channel, Spawn{.arguments = {"true"}});
    }
    SUBCASE("by a damaged request") {
      reason = "Spawn is shorter than its fields";
      client.send_text(FrameType::kSpawn, 1, "abc");
    }
    SUBCASE("by a signal that does not exist") {
      reason = "there is no signal 65";
      client.send_message(FrameType::kSignal, client.shell("sleep 1000"), Signal{65});
    }
    SUBCASE("by input for a process that takes none") {
      reason = "channel 1: input for a process without";
      client.send_text(FrameType::kInput, client.shell("sleep 1000"), "x");
    }
    SUBCASE("by input behind its end") {
      reason = "channel 1: input behind its end";
      uint32_t channel =
          client.spawn({.arguments = {"sleep", "1000"}, .user = self(), .open_input = true});
      client.send(FrameType::kInputEnd, channel);
      client.send_text(FrameType::kInput, channel, "x");
    }
    SUBCASE("by more input than it has credit for") {
      reason = "channel 1: 65536 bytes of input, 65535 more than granted";
      uint32_t channel =
          client.spawn({.arguments = {"sleep", "1000"}, .user = self(), .open_input = true});
      // A pipe takes 64 KiB, which are given back; the agent holds the credit on top.
      REQUIRE(client.wait([&] { return client[channel].started.has_value(); }));
      std::string block(kMaxPayload, 'x');
      for (uint32_t sent = 0; sent < kInitialCredit; sent += kMaxPayload)
        client.send_text(FrameType::kInput, channel, block);
      REQUIRE(client.wait([&] { return client[channel].input_credit == 64 * 1024; }));
      client.send_text(FrameType::kInput, channel, std::string(kMaxPayload - 1, 'x'));
      client.send_text(FrameType::kInput, channel, block);
    }
    SUBCASE("by credit for a stream that a terminal does not have") {
      reason = "channel 1: no stream 2";
      uint32_t channel =
          client.spawn({.arguments = {"sleep", "1000"}, .user = self(), .terminal = true});
      client.send_message(FrameType::kCredit, channel, Credit{.stream = 2, .bytes = 1});
    }
  }
  REQUIRE(reason != nullptr);
  CHECK(client.wait_for_hang_up());
  client.hang_up();
  INFO(client.log());
  CHECK(client.log().find(reason) != std::string::npos);
}

TEST_CASE("a process gives back its output and its exit status") {
  TestClient client;
  client.greet();
  const Answer& answer = client.run_shell("echo out; echo err >&2; exit 3");
  REQUIRE(answer.started);
  CHECK(answer.started->process_id > 1);
  CHECK(answer.output[1] == "out\n");
  CHECK(answer.output[2] == "err\n");
  REQUIRE(answer.exited);
  CHECK_FALSE(answer.exited->signaled);
  CHECK(answer.exited->value == 3);
  CHECK_FALSE(answer.exited->out_of_memory);
  CHECK(client.run_shell("exit 255").exited->value == 255);
}

TEST_CASE("a process that a signal ended says which") {
  TestClient client;
  client.greet();
  const Answer& answer = client.run_shell("kill -KILL $$");
  REQUIRE(answer.exited);
  CHECK(answer.exited->signaled);
  CHECK(answer.exited->value == SIGKILL);
}

TEST_CASE("a signal reaches the whole process group, even one sent before the start") {
  TestClient client;
  client.greet();
  uint32_t channel = client.shell("sleep 1000; exit 5");
  client.send_message(FrameType::kSignal, channel, Signal{SIGTERM});
  const Answer& answer = client.wait_for_end(channel);
  CHECK(answer.exited->signaled);
  CHECK(answer.exited->value == SIGTERM);

  channel = client.shell("sleep 1000 & echo $!; wait");
  REQUIRE(client.wait([&] { return client[channel].output[1].ends_with('\n'); }));
  pid_t child = parse_int(client[channel].output[1]);
  client.send_message(FrameType::kSignal, channel, Signal{SIGKILL});
  CHECK(client.wait_for_end(channel).exited->value == SIGKILL);
  CHECK(eventually([&] { return !is_there(child); }));
}

TEST_CASE("the environment is the user's, with the request's on top") {
  TestClient client;
  client.greet();
  // An ordinary user of the tests may have no entry in passwd, but the number always works.
  const Answer& answer = client.run({.arguments = {"env"},
                                     .environment = {"A=1", "B=two words", "LANG=C", "A=3"},
                                     .user = self()});
  std::set<std::string> lines;
  for (std::string_view rest = answer.output[1]; !rest.empty();) {
    size_t end = rest.find('\n');
    lines.emplace(rest.substr(0, end));
    rest.remove_prefix(end + 1);
  }
  CHECK(lines.contains("A=3"));
  CHECK(lines.contains("B=two words"));
  CHECK(lines.contains("LANG=C"));
  CHECK(lines.contains("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"));
  CHECK_FALSE(lines.contains("A=1"));
  auto has = [&](std::string_view name) {
    return std::any_of(lines.begin(), lines.end(),
                       [&](const std::string& line) { return line.starts_with(name); });
  };
  for (const char* name : {"HOME=/", "USER=", "LOGNAME=", "SHELL=/"}) {
    INFO(name);
    CHECK(has(name));
  }
  CHECK_FALSE(has("TERM="));
  CHECK_FALSE(has("HUTCH_AGENT="));  // nothing of the agent's own
  CHECK(client.run({.arguments = {"sh", "-c", "echo $TERM"}, .user = self(), .terminal = true})
            .output[1] == "xterm-256color\r\n");
}

TEST_CASE("the working directory is the request's, or the user's home") {
  TestClient client;
  client.greet();
  CHECK(client.run({.arguments = {"pwd"}, .working_directory = "/usr/bin", .user = self()})
            .output[1] == "/usr/bin\n");
  // Without an entry in passwd the home is "/".
  CHECK(client.run({.arguments = {"sh", "-c", "[ $PWD = $HOME ] || [ $PWD = / ]"}, .user = self()})
            .exited->value == 0);
  const Answer& failed =
      client.run({.arguments = {"pwd"}, .working_directory = "/nonexistent", .user = self()});
  REQUIRE(failed.failed);
  CHECK(failed.failed->stage == FailureStage::kDirectory);
  CHECK(failed.failed->error_number == ENOENT);
  CHECK(failed.failed->message ==
        "changing to the working directory /nonexistent: No such file or directory");
  CHECK_FALSE(failed.started);
}

TEST_CASE("what cannot be executed says why") {
  Folder folder;
  write_file(folder / "text", "words\n", 0644);
  write_file(folder / "orphan", "#!/nonexistent/interpreter\n", 0755);
  write_file(folder / "junk", "no program\n", 0755);
  TestClient client;
  client.greet();
  struct Expectation {
    std::string program;
    int error_number;
    std::string message;
  };
  for (const Expectation& one : std::vector<Expectation>{
           {"nonexistent-program", ENOENT, "nonexistent-program is not in PATH"},
           {"/nonexistent/program", ENOENT,
            "executing /nonexistent/program: No such file or directory"},
           {folder / "text", EACCES, "executing " + (folder / "text") + ": Permission denied"},
           {"/usr", EACCES, "executing /usr: Permission denied"},
           {folder / "orphan", ENOENT,
            "executing " + (folder / "orphan") + ": its interpreter is missing"},
           {folder / "junk", ENOEXEC, "executing " + (folder / "junk") + ": Exec format error"},
           {"", ENOENT, " is not in PATH"}}) {
    INFO(one.program);
    const Answer& answer = client.run({.arguments = {one.program}, .user = self()});
    REQUIRE(answer.failed);
    CHECK(answer.failed->stage == FailureStage::kExecute);
    CHECK(answer.failed->error_number == static_cast<uint32_t>(one.error_number));
    CHECK(answer.failed->message == one.message);
    CHECK_FALSE(answer.started);
    CHECK_FALSE(answer.exited);
  }
  // On the way along PATH, a file that may not be executed counts more than none at all.
  std::string path = "PATH=/nonexistent:" + (folder / "");
  CHECK(client.run({.arguments = {"text"}, .environment = {path}, .user = self()})
            .failed->error_number == EACCES);
  CHECK(client.run({.arguments = {"orphan"}, .environment = {path}, .user = self()})
            .failed->message == "executing orphan: its interpreter is missing");
  // A relative name is looked for in the working directory.
  CHECK(client.run({.arguments = {"./env"}, .working_directory = "/usr/bin", .user = self()})
            .exited->value == 0);
}

TEST_CASE("impossible requests fail and hurt nobody else") {
  TestClient client;
  client.greet();
  std::string zero("a\0b", 3);
  for (const Spawn& request : {Spawn{.arguments = {"echo", zero}, .user = self()},
                               Spawn{.arguments = {"echo"}, .environment = {"A=" + zero}},
                               Spawn{.arguments = {"echo"}, .environment = {"A"}},
                               Spawn{.arguments = {"echo"}, .environment = {"=A"}},
                               Spawn{.arguments = {"echo"}, .environment = {""}},
                               Spawn{.arguments = {"pwd"}, .working_directory = zero}}) {
    const Answer& answer = client.run(request);
    REQUIRE(answer.failed);
    CHECK(answer.failed->stage == FailureStage::kRequest);
    CHECK(answer.failed->error_number == EINVAL);
  }
  CHECK(
      client.wait_for_end(client.read_file({.path = zero, .user = self()})).failed->error_number ==
      EINVAL);
  CHECK(client.run_shell("exit 0").exited->value == 0);
}

TEST_CASE("a process runs as the user that was asked for") {
  TestClient client;
  client.greet();
  const Answer& unknown = client.run({.arguments = {"true"}, .user = "no-such-user"});
  REQUIRE(unknown.failed);
  CHECK(unknown.failed->stage == FailureStage::kUser);
  CHECK(unknown.failed->message == "there is no user \"no-such-user\" in /etc/passwd");

  CHECK(client.run({.arguments = {"id", "-u"}, .user = self()}).output[1] == self() + "\n");
  const Answer& other =
      client.run({.arguments = {"sh", "-c", "id -u; id -g; id -G"}, .user = "4242"});
  const Answer& root = client.run({.arguments = {"id", "-u"}});
  if (kIsRoot) {
    CHECK(other.output[1] == "4242\n4242\n4242\n");
    CHECK(root.output[1] == "0\n");
    // No way back.
    CHECK(client.run({.arguments = {"sh", "-c", "kill -0 1"}, .user = "4242"}).exited->value != 0);
  } else {
    for (const Answer* answer : {&other, &root}) {
      REQUIRE(answer->failed);
      CHECK(answer->failed->stage == FailureStage::kUser);
      CHECK(answer->failed->error_number == EPERM);
    }
  }
}

TEST_CASE("an agent without privileges serves only its own user") {
  uid_t user = kIsRoot ? 4242 : ::getuid();
  TestClient client(user);
  client.greet();
  CHECK(client.run({.arguments = {"id", "-u"}, .user = std::to_string(user)}).output[1] ==
        std::to_string(user) + "\n");
  const Answer& answer = client.run({.arguments = {"id", "-u"}, .user = "4343"});
  REQUIRE(answer.failed);
  CHECK(answer.failed->stage == FailureStage::kUser);
  CHECK(answer.failed->message == "becoming user 4343: Operation not permitted");
}

TEST_CASE("stdin is /dev/null unless asked for, then ends when the host says so") {
  TestClient client;
  client.greet();
  CHECK(client.run_shell("cat; readlink /proc/self/fd/0").output[1] == "/dev/null\n");
  uint32_t channel = client.spawn({.arguments = {"cat"}, .user = self(), .open_input = true});
  client.send_text(FrameType::kInput, channel, "one\n");
  REQUIRE(client.wait([&] { return client[channel].output[1] == "one\n"; }));
  client.send_text(FrameType::kInput, channel, "");  // is not the end
  client.send_text(FrameType::kInput, channel, "two\n");
  client.send(FrameType::kInputEnd, channel);
  const Answer& answer = client.wait_for_end(channel);
  CHECK(answer.output[1] == "one\ntwo\n");
  CHECK(answer.exited->value == 0);
}

TEST_CASE("a process has no descriptors but its three") {
  TestClient client;
  client.greet();
  client.shell("sleep 1000");  // whose pipes the agent holds
  const Answer& answer = client.run({.arguments = {"ls", "/proc/self/fd"}, .user = self()});
  CHECK(answer.output[1] == "0\n1\n2\n3\n");  // 3 is what ls opened
}

TEST_CASE("32 MiB through cat arrive intact") {
  TestClient client;
  client.greet();
  const long before = resident_kib(client.agent());
  const std::string sent = noise(32 * 1024 * 1024);
  uint32_t channel = client.spawn({.arguments = {"cat"}, .user = self(), .open_input = true});
  Answer& answer = client[channel];
  answer.output[1].reserve(sent.size());
  size_t at = 0;
  while (at < sent.size()) {
    size_t allowed = kInitialCredit + answer.input_credit;
    REQUIRE(client.wait([&] { return kInitialCredit + answer.input_credit > at; }));
    allowed = std::min(kInitialCredit + answer.input_credit, sent.size());
    while (at < allowed) {
      size_t size = std::min<size_t>(kMaxPayload, allowed - at);
      client.send_text(FrameType::kInput, channel, std::string_view(sent).substr(at, size));
      at += size;
    }
  }
  client.send(FrameType::kInputEnd, channel);
  client.wait_for_end(channel);
  CHECK(answer.exited->value == 0);
  CHECK(answer.output[1].size() == sent.size());
  CHECK((answer.output[1] == sent));
  CHECK(resident_kib(client.agent()) - before < kGrowthKib);
}

TEST_CASE("a process whose output nobody takes stops, and the agent holds none of it") {
  TestClient client;
  client.greet();
  const long before = resident_kib(client.agent());
  client.set_generous(false);
  uint32_t channel = client.shell("yes & yes >&2");
  Answer& answer = client[channel];
  REQUIRE(client.wait([&] {
    return answer.output[1].size() == kInitialCredit && answer.output[2].size() == kInitialCredit;
  }));
  // A frame that is answered behind it shows that no more was on its way.
  CHECK(client.run_shell("exit 4").exited->value == 4);
  CHECK(answer.output[1].size() == kInitialCredit);
  client.send_message(FrameType::kCredit, channel, Credit{.stream = 1, .bytes = 5});
  REQUIRE(client.wait([&] { return answer.output[1].size() == kInitialCredit + 5; }));
  CHECK(client.run_shell("exit 4").exited->value == 4);
  CHECK(answer.output[1].size() == kInitialCredit + 5);
  CHECK(answer.output[2].size() == kInitialCredit);
  CHECK(resident_kib(client.agent()) - before < kGrowthKib);
}

TEST_CASE("a host that does not read does not make the agent grow") {
  TestClient client;
  client.greet();
  const long before = resident_kib(client.agent());
  constexpr int kProcesses = 100;
  for (int i = 0; i < kProcesses; i++) client.shell("yes");
  // All of them stop once the agent does not read them any more: 100 times the credit would be
  // 25 MiB.
  REQUIRE(eventually([&] {
    auto children = children_of(client.agent());
    return children.size() == kProcesses &&
           std::all_of(children.begin(), children.end(),
                       [](const Child& child) { return child.state == 'S'; });
  }));
  CHECK(resident_kib(client.agent()) - before < kGrowthKib);
  // Nor does one that only asks: it is not listened to any more, before it has asked everything.
  constexpr int kRequests = 200000;
  std::atomic<int> asked = 0;
  std::thread asks([&] {
    for (; asked < kRequests; asked++)
      client.spawn({.arguments = {"nonexistent-program-with-a-name-of-some-length"},
                    .user = "no-such-user-either"});
  });
  int last = -1;
  while (last != asked && asked < kRequests) {
    last = asked;
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
  }
  CHECK(asked < kRequests);
  CHECK(resident_kib(client.agent()) - before < kGrowthKib);
  ::kill(client.agent(), SIGKILL);  // frees the thread
  asks.join();
}

TEST_CASE("200 short processes at once leave no zombie") {
  TestClient client;
  client.greet();
  std::vector<uint32_t> channels;
  for (int i = 0; i < 200; i++)
    channels.push_back(client.shell("echo " + std::to_string(i) + "; exit " + std::to_string(i)));
  for (size_t i = 0; i < channels.size(); i++) {
    const Answer& answer = client.wait_for_end(channels[i]);
    REQUIRE(answer.exited);
    CHECK(answer.exited->value == i);
    CHECK(answer.output[1] == std::to_string(i) + "\n");
  }
  CHECK(eventually([&] { return children_of(client.agent()).empty(); }));
}

TEST_CASE("processes that lost their parent are reaped") {
  TestClient client;
  client.greet();
  // The inner shell ends at once; its child becomes the agent's.
  const Answer& answer =
      client.run_shell("sh -c 'sh -c \"sleep 0.3; exit 9\" >/dev/null 2>&1 & echo $!'");
  pid_t orphan = parse_int(answer.output[1]);
  REQUIRE(orphan > 0);
  auto children = children_of(client.agent());
  CHECK(std::any_of(children.begin(), children.end(),
                    [&](const Child& child) { return child.process == orphan; }));
  CHECK(eventually([&] { return !is_there(orphan); }));
}

TEST_CASE("an exit does not wait for children that keep the output open") {
  TestClient client;
  client.greet();
  uint32_t channel =
      client.shell("(while :; do sleep 0.05; echo later; done) & echo $!; echo now; exit 6");
  const Answer& answer = client.wait_for_exit(channel);
  CHECK(answer.exited->value == 6);
  CHECK_FALSE(answer.ended[1]);
  CHECK(answer.before_exit[1].find("now\n") != std::string::npos);
  // What they write still comes, until they end.
  REQUIRE(client.wait([&] { return answer.output[1].find("later\n") != std::string::npos; }));
  pid_t child = parse_int(answer.output[1]);
  REQUIRE(::kill(child, SIGKILL) == 0);
  client.wait_for_end(channel);
  CHECK(answer.ended[1]);
}

TEST_CASE("all that a process wrote comes before its exit") {
  TestClient client;
  client.greet();
  for (bool terminal : {false, true}) {
    INFO((terminal ? "terminal" : "pipe"));
    // As much as a pipe holds, and somebody who keeps it open.
    uint32_t channel = client.spawn({.arguments = {"sh", "-c",
                                                   "trap '' HUP; sleep 1000 & "
                                                   "head -c 60000 /dev/zero | tr '\\0' x; echo; "
                                                   "echo $! end"},
                                     .user = self(),
                                     .terminal = terminal});
    const Answer& answer = client.wait_for_exit(channel);
    REQUIRE(answer.exited);
    CHECK(answer.exited->value == 0);
    CHECK(answer.before_exit[1].starts_with(std::string(60000, 'x')));
    CHECK(answer.before_exit[1].ends_with(terminal ? " end\r\n" : " end\n"));
    CHECK(answer.before_exit[1] == answer.output[1]);
    size_t line = answer.output[1].find('\n') + 1;
    pid_t child = parse_int(std::string_view(answer.output[1]).substr(line));
    REQUIRE(child > 1);
    CHECK(::kill(child, SIGKILL) == 0);
    REQUIRE(client.wait([&] { return answer.ended[1]; }));
  }
}

TEST_CASE("an exit is told though a terminal stays open and has nothing more") {
  TestClient client;
  client.greet();
  client.set_generous(false);
  // One is read empty before the exit; the other just when its credit is spent.
  for (const std::string& script :
       {std::string("echo x; sleep 0.3"),
        "head -c " + std::to_string(kInitialCredit) + " /dev/zero | tr '\\0' x"}) {
    INFO(script);
    uint32_t channel =
        client.spawn({.arguments = {"sh", "-c", "trap '' HUP; sleep 1000 & " + script + "; exit 3"},
                      .user = self(),
                      .terminal = true});
    const Answer& answer = client[channel];
    REQUIRE(client.wait([&] { return answer.started && !answer.output[1].empty(); }));
    auto process = static_cast<pid_t>(answer.started->process_id);
    CHECK(eventually([&] { return !is_there(process); }));
    if (script.starts_with("head"))
      client.send_message(FrameType::kCredit, channel, Credit{.stream = 1, .bytes = 100});
    CHECK(client.wait_for_exit(channel).exited->value == 3);
    CHECK_FALSE(answer.ended[1]);
    auto children = children_of(client.agent());
    REQUIRE(children.size() == 1);
    CHECK(::kill(children[0].process, SIGKILL) == 0);
    CHECK(client.wait([&] { return answer.ended[1]; }));
    CHECK(eventually([&] { return children_of(client.agent()).empty(); }));
  }
}

TEST_CASE("an exit waits for output that has no credit yet") {
  for (bool terminal : {false, true}) {
    INFO((terminal ? "terminal" : "pipe"));
    TestClient client;
    client.greet();
    client.set_generous(false);
    std::string size = std::to_string(kInitialCredit + 1000);
    uint32_t channel = client.spawn(
        {.arguments = {"sh", "-c", "head -c " + size + " /dev/zero | tr '\\0' x; kill -9 $$"},
         .user = self(),
         .terminal = terminal});
    const Answer& answer = client[channel];
    REQUIRE(client.wait([&] { return answer.output[1].size() == kInitialCredit; }));
    CHECK(client.run_shell("exit 4").exited->value == 4);
    CHECK(eventually([&] {  // it is gone, and reaped
      return children_of(client.agent()).empty();
    }));
    CHECK_FALSE(answer.exited);
    client.send_message(FrameType::kCredit, channel, Credit{.stream = 1, .bytes = 100000});
    client.wait_for_exit(channel);
    CHECK(answer.before_exit[1] == std::string(kInitialCredit + 1000, 'x'));
    CHECK(answer.exited->value == SIGKILL);
  }
}

TEST_CASE("Close kills the process group and ends the channel") {
  TestClient client;
  client.greet();
  uint32_t channel = client.shell("trap '' TERM HUP; sleep 1000 & echo $$ $!; wait");
  REQUIRE(client.wait([&] { return client[channel].output[1].ends_with('\n'); }));
  const std::string& output = client[channel].output[1];
  pid_t shell = parse_int(output);
  pid_t child = parse_int(std::string_view(output).substr(output.find(' ') + 1));
  REQUIRE(child > 1);
  client.send(FrameType::kClose, channel);
  CHECK(eventually([&] { return !is_there(shell) && !is_there(child); }));
  CHECK(client.run_shell("exit 0").exited->value == 0);
  CHECK_FALSE(client[channel].exited);
  CHECK_FALSE(client[channel].ended[1]);
  // Nothing is known of it any more, and that is no error.
  client.send(FrameType::kClose, channel);
  client.send_message(FrameType::kSignal, channel, Signal{SIGTERM});
  client.send_message(FrameType::kCredit, channel, Credit{.stream = 1, .bytes = 1});
  client.send(FrameType::kInputEnd, channel);
  CHECK(client.run_shell("exit 0").exited->value == 0);
}

TEST_CASE("Close after an exit spares the children that live on") {
  TestClient client;
  client.greet();
  uint32_t channel = client.shell("sleep 1000 & echo $!");
  const Answer& answer = client.wait_for_exit(channel);
  pid_t child = parse_int(answer.output[1]);
  client.send(FrameType::kClose, channel);
  CHECK(client.run_shell("exit 0").exited->value == 0);
  CHECK(is_there(child));
  CHECK(::kill(child, SIGKILL) == 0);
}

TEST_CASE("the end of the connection ends its processes") {
  TestClient client;
  client.greet();
  uint32_t channel = client.shell("trap '' TERM HUP; echo $$; while :; do sleep 1000; done");
  REQUIRE(client.wait([&] { return client[channel].output[1].ends_with('\n'); }));
  pid_t shell = parse_int(client[channel].output[1]);
  CHECK(client.hang_up() == 0);
  CHECK(eventually([&] { return !is_there(shell); }));
}

TEST_CASE("input that nobody reads is dropped, and the credit comes back") {
  TestClient client;
  client.greet();
  uint32_t channel = client.spawn(
      {.arguments = {"sh", "-c", "exec <&-; sleep 1000"}, .user = self(), .open_input = true});
  const std::string block(kMaxPayload, 'x');
  for (int i = 0; i < 100; i++) {
    REQUIRE(client.wait([&] {
      return kInitialCredit + client[channel].input_credit >=
             static_cast<size_t>(i + 1) * kMaxPayload;
    }));
    client.send_text(FrameType::kInput, channel, block);
  }
  client.send(FrameType::kInputEnd, channel);
  client.send_message(FrameType::kSignal, channel, Signal{SIGTERM});
  CHECK(client.wait_for_end(channel).exited->value == SIGTERM);
}

TEST_CASE("a terminal is one: size, controlling terminal, interrupt key, end of file") {
  TestClient client;
  client.greet();
  auto in_terminal = [&](const std::string& script) {
    return client.spawn({.arguments = {"sh", "-c", script},
                         .user = self(),
                         .terminal = true,
                         .open_input = true,
                         .rows = 33,
                         .columns = 111});
  };
  uint32_t channel = in_terminal(
      "trap 'stty size; exit' WINCH; tty -s && stty size && echo err >&2 && : </dev/tty && "
      "echo ready; while :; do sleep 0.02; done");
  REQUIRE(client.wait([&] { return client[channel].output[1] == "33 111\r\nerr\r\nready\r\n"; }));
  client.send_message(FrameType::kResize, channel, Resize{.rows = 50, .columns = 200});
  CHECK(client.wait([&] { return client[channel].ended[1]; }));
  client.wait_for_exit(channel);
  CHECK(client[channel].output[1].ends_with("50 200\r\n"));

  channel = in_terminal("echo ready; exec sleep 1000");
  REQUIRE(client.wait([&] { return client[channel].output[1] == "ready\r\n"; }));
  client.send_text(FrameType::kInput, channel, "\x03");
  CHECK(client.wait_for_exit(channel).exited->value == SIGINT);

  // The end of input is typed: once behind a line, twice within one.
  for (std::string_view text : {"word\n", "word"}) {
    channel = in_terminal("stty -echo; echo ready; cat; echo end");
    REQUIRE(client.wait([&] { return client[channel].output[1] == "ready\r\n"; }));
    client.send_text(FrameType::kInput, channel, text);
    client.send(FrameType::kInputEnd, channel);
    client.wait_for_exit(channel);
    CHECK(client[channel].output[1].find("word") != std::string::npos);
    CHECK(client[channel].output[1].ends_with("end\r\n"));
  }

  // Resizing what is no terminal does nothing.
  channel = client.shell("sleep 0.05; exit 7");
  client.send_message(FrameType::kResize, channel, Resize{.rows = 1, .columns = 1});
  CHECK(client.wait_for_end(channel).exited->value == 7);
}

TEST_CASE("a terminal belongs to its user, and hangs up when the channel is closed") {
  TestClient client;
  client.greet();
  uint32_t channel = client.spawn({.arguments = {"sh", "-c", "stat -c %u $(tty); exec sleep 1000"},
                                   .user = self(),
                                   .terminal = true,
                                   .open_input = true});
  REQUIRE(client.wait([&] { return client[channel].output[1] == self() + "\r\n"; }));
  auto process = static_cast<pid_t>(client[channel].started->process_id);
  client.send(FrameType::kClose, channel);
  CHECK(eventually([&] { return !is_there(process); }));
}

TEST_CASE("files are read, whole or in part") {
  Folder folder;
  const std::string text = noise(3 * 1024 * 1024 + 7);
  write_file(folder / "large", text);
  TestClient client;
  client.greet();
  const Answer& whole = client.wait_for_end(client.read_file({folder / "large", self()}));
  REQUIRE(whole.done);
  CHECK(whole.done->size == text.size());
  CHECK((whole.output[1] == text));
  CHECK_FALSE(whole.ended[1]);  // Done says it
  const Answer& part = client.wait_for_end(
      client.read_file({.path = folder / "large", .user = self(), .offset = 100, .limit = 1000}));
  CHECK(part.done->size == 1000);
  CHECK((part.output[1] == text.substr(100, 1000)));
  const Answer& behind = client.wait_for_end(client.read_file(
      {.path = folder / "large", .user = self(), .offset = text.size() + 5, .limit = 1000}));
  CHECK(behind.done->size == 0);
  CHECK(client.wait_for_end(client.read_file({"/proc/self/status", self()}))
            .output[1]
            .starts_with("Name:"));
}

TEST_CASE("a file that cannot be read says why") {
  Folder folder;
  write_file(folder / "secret", "x", 0600);
  REQUIRE(::symlink("loop", (folder / "loop").c_str()) == 0);
  TestClient client;
  client.greet();
  auto fails_with = [&](const ReadFile& request, int error_number, const std::string& text) {
    INFO(request.path);
    const Answer& answer = client.wait_for_end(client.read_file(request));
    REQUIRE(answer.failed);
    CHECK(answer.failed->stage == FailureStage::kFile);
    CHECK(answer.failed->error_number == static_cast<uint32_t>(error_number));
    CHECK(answer.failed->message == "reading " + request.path + ": " + text);
  };
  fails_with({folder / "missing", self()}, ENOENT, "No such file or directory");
  fails_with({"", self()}, ENOENT, "No such file or directory");
  fails_with({folder / "", self()}, EISDIR, "Is a directory");
  fails_with({folder / "loop", self()}, ELOOP, "Too many levels of symbolic links");
  fails_with({.path = folder / "secret", .user = self(), .offset = UINT64_MAX}, EINVAL,
             "Invalid argument");
  const Answer& stranger = client.wait_for_end(client.read_file({folder / "secret", "4242"}));
  REQUIRE(stranger.failed);
  if (kIsRoot) {
    CHECK(stranger.failed->stage == FailureStage::kFile);
    CHECK(stranger.failed->error_number == EACCES);
  } else {
    CHECK(stranger.failed->stage == FailureStage::kUser);
    CHECK(stranger.failed->error_number == EPERM);
  }
}

TEST_CASE("a file that blocks holds up nothing else, and Close ends it") {
  Folder folder;
  REQUIRE(::mkfifo((folder / "fifo").c_str(), 0600) == 0);
  TestClient client;
  client.greet();
  uint32_t reader = client.read_file({folder / "fifo", self()});
  CHECK(client.run_shell("exit 8").exited->value == 8);
  CHECK(children_of(client.agent()).size() == 1);
  client.send(FrameType::kClose, reader);
  CHECK(eventually([&] { return children_of(client.agent()).empty(); }));
}

TEST_CASE("files are written") {
  Folder folder;
  TestClient client;
  client.greet();
  auto write = [&](const WriteFile& request, std::string_view text) -> const Answer& {
    uint32_t channel = client.write_file(request);
    REQUIRE(client.wait([&] { return client[channel].started || client[channel].failed; }));
    if (client[channel].started) {
      CHECK(client[channel].started->process_id == 0);
      for (size_t at = 0; at < text.size(); at += kMaxPayload) {
        REQUIRE(client.wait(
            [&] { return kInitialCredit + client[channel].input_credit >= at + kMaxPayload; }));
        client.send_text(FrameType::kInput, channel, text.substr(at, kMaxPayload));
      }
      client.send(FrameType::kInputEnd, channel);
    }
    return client.wait_for_end(channel);
  };
  auto mode_of = [&](const std::string& path) {
    struct stat status {};
    REQUIRE(::stat(path.c_str(), &status) == 0);
    return status.st_mode & 07777;
  };

  const std::string large = noise(2 * 1024 * 1024 + 3);
  const Answer& first = write({.path = folder / "file", .user = self(), .mode = 0666}, large);
  REQUIRE(first.done);
  CHECK(first.done->size == large.size());
  CHECK((contents(folder / "file") == large));
  CHECK(mode_of(folder / "file") == 0666);  // whatever the agent's umask

  // One that is there keeps its mode and loses what it held.
  CHECK(write({.path = folder / "file", .user = self(), .mode = 0600}, "short").done->size == 5);
  CHECK(contents(folder / "file") == "short");
  CHECK(mode_of(folder / "file") == 0666);
  CHECK(write({.path = folder / "file", .user = self(), .append = true}, "er").done->size == 2);
  CHECK(contents(folder / "file") == "shorter");
  CHECK(write({.path = folder / "empty", .user = self()}, "").done->size == 0);
  CHECK(mode_of(folder / "empty") == 0644);

  const Answer& exists = write({.path = folder / "file", .user = self(), .create_new = true}, "x");
  REQUIRE(exists.failed);
  CHECK(exists.failed->error_number == EEXIST);
  CHECK(exists.failed->message == "writing " + (folder / "file") + ": File exists");
  CHECK(contents(folder / "file") == "shorter");
  CHECK(write({.path = folder / "no/file", .user = self()}, "x").failed->error_number == ENOENT);
  CHECK(write({.path = folder / "", .user = self()}, "x").failed->error_number == EISDIR);
  // The disk is full only once something is written.
  const Answer& full = write({.path = "/dev/full", .user = self()}, "x");
  CHECK(full.started);
  REQUIRE(full.failed);
  CHECK(full.failed->error_number == ENOSPC);
  if (kIsRoot) {
    CHECK(write({.path = folder / "theirs", .user = "4242"}, "x").failed->error_number == EACCES);
    REQUIRE(::chmod((folder / "").c_str(), 01777) == 0);
    CHECK(write({.path = folder / "theirs", .user = "4242"}, "x").done);
    struct stat status {};
    REQUIRE(::stat((folder / "theirs").c_str(), &status) == 0);
    CHECK(status.st_uid == 4242);
    CHECK(status.st_gid == 4242);
  } else {
    CHECK(write({.path = "/etc/hutch-test", .user = self()}, "x").failed->error_number == EACCES);
  }
}

TEST_CASE("one operation too many is refused, and the others live on") {
  Folder folder;
  REQUIRE(::mkfifo((folder / "fifo").c_str(), 0600) == 0);
  TestClient client;
  client.greet();
  uint32_t first = 0;
  for (uint32_t i = 0; i < kMaxChannels; i++) {
    uint32_t channel = client.read_file({folder / "fifo", self()});
    if (i == 0) first = channel;
  }
  const Answer& refused = client.run_shell("exit 0");
  REQUIRE(refused.failed);
  CHECK(refused.failed->stage == FailureStage::kRequest);
  CHECK(refused.failed->error_number == EAGAIN);
  CHECK(refused.failed->message == "more than 1024 operations at once");
  client.send(FrameType::kClose, first);
  CHECK(client.run_shell("exit 0").exited->value == 0);
}

TEST_CASE("a crash of the agent says so before it ends") {
  TestClient client;
  client.greet();
  REQUIRE(::kill(client.agent(), SIGSEGV) == 0);
  int status = client.hang_up();
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 1);
  CHECK(client.log() == "hutch-agent: fatal: crashed with signal 11 sent by process " +
                            std::to_string(::getpid()) + "\n");
}

TEST_CASE("a shutdown ends the agent outside of a machine of its own") {
  TestClient client;
  client.greet();
  client.send_message(FrameType::kShutdown, 0, Shutdown{ShutdownKind::kPowerOff});
  CHECK(client.wait_for_hang_up());
  CHECK(client.hang_up() == 0);
}

// The program in the way it runs in the emulated machine.
class Listening {
 public:
  explicit Listening(const std::string& address) {
    write_file(folder_ / "token", "correct horse\n", 0600);
    std::string program = agent_program();
    std::string token_file = folder_ / "token";
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    Fd reader(ends[0]), writer(ends[1]);
    process_ = ::fork();
    REQUIRE(process_ >= 0);
    if (process_ == 0) {
      ::dup2(writer.get(), STDOUT_FILENO);
      // What it says about strangers is not the test's business.
      ::dup2(open_file("/dev/null", O_WRONLY).value().get(), STDERR_FILENO);
      ::execl(program.c_str(), "hutch-agent", "--listen", address.c_str(), "--token-file",
              token_file.c_str(), nullptr);
      ::_exit(97);
    }
    writer.reset();
    std::string line;
    char byte;
    while (::read(reader.get(), &byte, 1) == 1 && byte != '\n') line += byte;
    REQUIRE(line.starts_with(kListeningLine));
    port_ = static_cast<uint16_t>(parse_int(std::string_view(line).substr(kListeningLine.size())));
  }
  ~Listening() {
    if (process_ > 0) {
      ::kill(process_, SIGKILL);
      ::waitpid(process_, nullptr, 0);
    }
  }
  std::unique_ptr<TestClient> connect() const {
    Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port_);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    REQUIRE(::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    return TestClient::on_socket(std::move(socket));
  }
  // Waits for it to end by itself.
  int wait() {
    int status = -1;
    CHECK(eventually([&] { return ::waitpid(process_, &status, WNOHANG) == process_; }));
    process_ = -1;
    return status;
  }

 private:
  Folder folder_;
  pid_t process_ = -1;
  uint16_t port_ = 0;
};

TEST_CASE("who listens serves several hosts at once, and only those who know the token") {
  Listening agent("127.0.0.1:0");
  for (const char* token : {"", "correct hors", "correct horse!", "Correct horse"}) {
    INFO(token);
    auto stranger = agent.connect();
    stranger->send_message(FrameType::kHello, 0, Hello{.token = token});
    CHECK(stranger->wait_for_hang_up());
  }
  auto first = agent.connect();
  auto second = agent.connect();
  first->greet({.token = "correct horse"});
  second->greet({.token = "correct horse"});
  uint32_t slow = first->shell("sleep 1000");
  CHECK(second->run_shell("exit 5").exited->value == 5);
  // The same numbers on two connections are two channels.
  CHECK(slow == 1);
  first->send_message(FrameType::kSignal, slow, Signal{SIGTERM});
  CHECK(first->wait_for_end(slow).exited->value == SIGTERM);

  // One that goes takes its own processes along and nothing else.
  uint32_t channel = first->shell("echo $$; exec sleep 1000");
  REQUIRE(first->wait([&] { return !(*first)[channel].output[1].empty(); }));
  pid_t sleeper = parse_int((*first)[channel].output[1]);
  first.reset();
  CHECK(eventually([&] { return !is_there(sleeper); }));
  CHECK(second->run_shell("exit 5").exited->value == 5);

  second->send_message(FrameType::kShutdown, 0, Shutdown{ShutdownKind::kPowerOff});
  CHECK(WEXITSTATUS(agent.wait()) == 0);
}

TEST_CASE("strangers cannot lock the host out") {
  Listening agent("127.0.0.1:0");
  auto friendly = agent.connect();
  friendly->greet({.token = "correct horse"});
  std::vector<std::unique_ptr<TestClient>> strangers;
  for (int i = 0; i < 100; i++) strangers.push_back(agent.connect());
  auto other = agent.connect();
  other->greet({.token = "correct horse"});
  CHECK(other->run_shell("exit 5").exited->value == 5);
  CHECK(friendly->run_shell("exit 6").exited->value == 6);
}

TEST_CASE("the command line is checked") {
  auto run = [](std::vector<std::string> words) {
    std::string program = agent_program();
    words.insert(words.begin(), "hutch-agent");
    pid_t process = ::fork();
    REQUIRE(process >= 0);
    if (process == 0) {
      ::dup2(open_file("/dev/null", O_WRONLY).value().get(), STDERR_FILENO);
      std::vector<char*> arguments;
      for (std::string& word : words) arguments.push_back(word.data());
      arguments.push_back(nullptr);
      ::execv(program.c_str(), arguments.data());
      ::_exit(97);
    }
    int status = -1;
    CHECK(::waitpid(process, &status, 0) == process);
    return WEXITSTATUS(status);
  };
  Folder folder;
  write_file(folder / "empty", "\n");
  write_file(folder / "token", "x");
  CHECK(run({}) == 2);
  CHECK(run({"--help"}) == 2);
  CHECK(run({"--descriptor", "x"}) == 2);
  CHECK(run({"--descriptor", "-1"}) == 2);
  CHECK(run({"--descriptor", "3", "--listen", "127.0.0.1:0", "--token-file", "x"}) == 2);
  CHECK(run({"--descriptor", "3", "--then-descriptor", "x"}) == 2);
  CHECK(run({"--descriptor", "3", "--owns-system", "no"}) == 2);
  CHECK(run({"--listen", "127.0.0.1:0", "--token-file", "x", "--cgroups", "x"}) == 2);
  CHECK(run({"--listen", "127.0.0.1:0"}) == 2);  // never without a token
  CHECK(run({"--descriptor", "77"}) == 1);       // not open
  CHECK(run({"--listen", "127.0.0.1:0", "--token-file", folder / "missing"}) == 1);
  CHECK(run({"--listen", "127.0.0.1:0", "--token-file", folder / "empty"}) == 1);
  for (const char* address : {"127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536",
                              "localhost:1", ":1", "[::1:1", "300.0.0.1:1"}) {
    INFO(address);
    CHECK(run({"--listen", address, "--token-file", folder / "token"}) == 1);
  }
}

}  // namespace
}  // namespace hutch::agent
