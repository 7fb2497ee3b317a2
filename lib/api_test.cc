// The C functions: options of other versions, errors, and an agent over a socket that is given.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <hutch.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>

#include "base/sys.h"
#include "protocol/agent.h"

using hutch::Fd;
namespace wire = hutch::protocol::agent;

namespace {

struct Error {
  hutch_error* value = nullptr;
  ~Error() { hutch_error_free(value); }
  std::string message() const { return hutch_error_message(value); }
};

int open_descriptors() {
  int open = 0;
  for (int fd = 0; fd < 200; fd++) open += ::fcntl(fd, F_GETFD) >= 0;
  return open;
}

std::pair<Fd, Fd> sockets() {
  return hutch::socket_pair(SOCK_STREAM).value();
}

hutch_agent* connect(int fd, uint32_t timeout_ms = 0) {
  hutch_agent_options options{};
  options.size = sizeof options;
  options.fd = fd;
  options.timeout_ms = timeout_ms;
  hutch_agent* agent = nullptr;
  REQUIRE(hutch_agent_connect(&options, &agent, nullptr) == HUTCH_OK);
  return agent;
}

// The next event, waited for through the event descriptor as a program would.
hutch_event* wait_event(hutch_agent* agent) {
  for (int i = 0; i < 200; i++) {
    hutch_event* event = nullptr;
    REQUIRE(hutch_agent_next_event(agent, &event, nullptr) == HUTCH_OK);
    if (event != nullptr) return event;
    pollfd poll{.fd = hutch_agent_event_fd(agent), .events = POLLIN, .revents = 0};
    ::poll(&poll, 1, 100);
  }
  return nullptr;
}

void send_frame(int fd, wire::FrameType type, uint32_t channel, std::vector<std::byte> payload) {
  REQUIRE(hutch::write_all(fd, wire::encode_frame(type, channel, payload)));
}

hutch_task start(hutch_agent* agent, const char* const* arguments, bool input = false) {
  hutch_process_options options{};
  options.size = sizeof options;
  options.arguments = arguments;
  options.open_input = input;
  hutch_task task = 0;
  REQUIRE(hutch_process_start(agent, &options, &task, nullptr) == HUTCH_OK);
  return task;
}

}  // namespace

TEST_CASE("options of another version are taken as far as they are understood") {
  hutch_vm* vm = nullptr;
  SUBCASE("no options, or no size") {
    hutch_vm_options options{};
    CHECK(hutch_vm_start(nullptr, &vm, nullptr) == HUTCH_INVALID);
    CHECK(hutch_vm_start(&options, &vm, nullptr) == HUTCH_INVALID);
  }
  SUBCASE("longer, with something unknown set") {
    struct {
      hutch_vm_options known;
      uint64_t unknown;
    } options{};
    options.known.size = sizeof options;
    options.known.kernel = "/dev/null";
    options.unknown = 1;
    CHECK(hutch_vm_start(&options.known, &vm, nullptr) == HUTCH_INVALID);
  }
  SUBCASE("longer, with nothing unknown set: goes on to look for the VMM") {
    struct {
      hutch_vm_options known;
      uint64_t unknown;
    } options{};
    options.known.size = sizeof options;
    options.known.kernel = "/dev/null";
    options.known.vmm_path = "/no/such/hutch-vmm";
    Error error;
    CHECK(hutch_vm_start(&options.known, &vm, &error.value) == HUTCH_NOT_FOUND);
    CHECK(error.message().find("/no/such/hutch-vmm") != std::string::npos);
    CHECK(std::string(hutch_error_remedy(error.value)).size() > 10);
    CHECK(hutch_error_errno(error.value) == ENOENT);
  }
  SUBCASE("shorter: the rest has its default") {
    hutch_vm_options options{};
    options.size = offsetof(hutch_vm_options, kernel);
    options.kernel = "not looked at";
    Error error;
    CHECK(hutch_vm_start(&options, &vm, &error.value) == HUTCH_INVALID);
    CHECK(error.message() == "a machine needs a kernel");
  }
  CHECK(vm == nullptr);
}

TEST_CASE("the hosts of a network are checked before anything starts") {
  hutch_vm* vm = nullptr;
  hutch_network network{};
  network.size = sizeof network;
  hutch_vm_options options{};
  options.size = sizeof options;
  options.kernel = "/dev/null";
  options.vmm_path = "/no/such/hutch-vmm";
  options.network = &network;
  Error error;
  SUBCASE("a pattern that is none is named") {
    const char* hosts[] = {"allowed.test", "*.com"};
    network.hosts = hosts;
    network.host_count = 2;
    CHECK(hutch_vm_start(&options, &vm, &error.value) == HUTCH_INVALID);
    CHECK(error.message().find("\"*.com\" would allow a whole top-level domain") == 0);
    CHECK(std::string(hutch_error_remedy(error.value)).find("*.example.com") != std::string::npos);
  }
  SUBCASE("all and some") {
    const char* hosts[] = {"allowed.test"};
    network.hosts = hosts;
    network.host_count = 1;
    network.allow_all = 1;
    CHECK(hutch_vm_start(&options, &vm, &error.value) == HUTCH_INVALID);
  }
  SUBCASE("a count without its list") {
    network.dns_server_count = 1;
    CHECK(hutch_vm_start(&options, &vm, &error.value) == HUTCH_INVALID);
  }
  SUBCASE("no size") {
    network.size = 0;
    CHECK(hutch_vm_start(&options, &vm, &error.value) == HUTCH_INVALID);
  }
  SUBCASE("good ones go on to look for the VMM") {
    const char* hosts[] = {"allowed.test:443", "*.wild.test"};
    network.hosts = hosts;
    network.host_count = 2;
    CHECK(hutch_vm_start(&options, &vm, &error.value) == HUTCH_NOT_FOUND);
  }
  CHECK(vm == nullptr);
}

TEST_CASE("options out of their range are refused with the range") {
  hutch_vm* vm = nullptr;
  hutch_vm_options options{};
  options.size = sizeof options;
  options.kernel = "/dev/null";
  std::string expected;
  SUBCASE("CPUs") {
    options.cpus = 17;
    expected = "17 CPUs; at most 16 are possible";
  }
  SUBCASE("memory") {
    options.memory = 127ull << 20;
    expected = "133169152 bytes of memory; 128 MiB to 64 GiB in whole MiB are possible";
  }
  SUBCASE("a memory of half a MiB") {
    options.memory = (256ull << 20) + (1 << 19);
    expected = "268959744 bytes of memory; 128 MiB to 64 GiB in whole MiB are possible";
  }
  SUBCASE("disks without a list") {
    options.disk_count = 1;
    expected = "disk_count without disks";
  }
  Error error;
  CHECK(hutch_vm_start(&options, &vm, &error.value) == HUTCH_INVALID);
  CHECK(error.message() == expected);
  CHECK(std::string(hutch_error_name(error.value)) == "invalid");
}

TEST_CASE("a failed start leaves no descriptor behind") {
  int before = open_descriptors();
  hutch_vm_options options{};
  options.size = sizeof options;
  options.kernel = "/no/such/kernel";
  options.vmm_path = "/bin/cat";  // starts, and waits for nobody
  options.kvm_path = "/dev/null";
  hutch_vm* vm = nullptr;
  Error error;
  CHECK(hutch_vm_start(&options, &vm, &error.value) == HUTCH_NOT_FOUND);
  CHECK(error.message() == "the guest kernel: opening /no/such/kernel: No such file or directory");
  CHECK(open_descriptors() == before);
}

TEST_CASE("a shell is given to a machine, or ends with its handle; one that is dead is replaced") {
  hutch_shell_options wanted{};
  wanted.size = sizeof wanted;
  wanted.vmm_path = "/no/such/hutch-vmm";
  wanted.kvm_path = "/dev/null";
  hutch_shell* shell = nullptr;
  Error error;
  CHECK(hutch_shell_start(&wanted, &shell, &error.value) == HUTCH_NOT_FOUND);
  CHECK(shell == nullptr);
  CHECK(hutch_shell_start(nullptr, &shell, nullptr) == HUTCH_INVALID);
  CHECK(hutch_shell_start(&wanted, nullptr, nullptr) == HUTCH_INVALID);
  hutch_shell_free(nullptr);

  int before = open_descriptors();
  wanted.vmm_path = "/bin/cat";  // starts, and waits for nobody
  REQUIRE(hutch_shell_start(&wanted, &shell, nullptr) == HUTCH_OK);
  hutch_shell_free(shell);
  CHECK(open_descriptors() == before);

  hutch_vm_options options{};
  options.size = sizeof options;
  options.vmm_path = "/no/such/hutch-vmm";
  options.no_agent = 1;
  // Taken also by a start that fails.
  REQUIRE(hutch_shell_start(&wanted, &options.shell, nullptr) == HUTCH_OK);
  hutch_vm* vm = nullptr;
  CHECK(hutch_vm_start(&options, &vm, nullptr) == HUTCH_INVALID);
  CHECK(open_descriptors() == before);

  options.kernel = "/dev/null";
  for (bool is_dead : {false, true}) {
    wanted.vmm_path = is_dead ? "/bin/false" : std::getenv("HUTCH_FAKE_VMM");
    options.vmm_path = "/bin/true";
    REQUIRE(hutch_shell_start(&wanted, &options.shell, nullptr) == HUTCH_OK);
    ::usleep(200'000);
    REQUIRE(hutch_vm_start(&options, &vm, nullptr) == HUTCH_OK);
    CHECK(hutch_vm_was_prepared(vm) == (is_dead ? 0 : 1));
    hutch_vm_free(vm);
  }
  CHECK(open_descriptors() == before);
}

TEST_CASE("a program that is no VMM ends the machine with its status") {
  hutch_vm_options options{};
  options.size = sizeof options;
  options.kernel = "/dev/null";
  options.vmm_path = "/bin/false";
  options.kvm_path = "/dev/null";
  options.no_agent = 1;
  hutch_vm* vm = nullptr;
  REQUIRE(hutch_vm_start(&options, &vm, nullptr) == HUTCH_OK);
  CHECK(hutch_vm_agent(vm) == nullptr);
  hutch_event* event = nullptr;
  for (int i = 0; i < 100 && event == nullptr; i++) {
    REQUIRE(hutch_vm_next_event(vm, &event, nullptr) == HUTCH_OK);
    pollfd poll{.fd = hutch_vm_event_fd(vm), .events = POLLIN, .revents = 0};
    if (event == nullptr) ::poll(&poll, 1, 100);
  }
  REQUIRE(event != nullptr);
  CHECK(event->kind == HUTCH_EVENT_ENDED);
  CHECK(event->reason == HUTCH_REASON_VMM_FAILED);
  CHECK(std::string(event->message) == "hutch-vmm ended with status 1 before it said why");
  hutch_event_free(event);
  REQUIRE(hutch_vm_next_event(vm, &event, nullptr) == HUTCH_OK);
  CHECK(event == nullptr);
  hutch_vm_free(vm);
}

TEST_CASE("an agent that does not greet in time is lost") {
  auto [ours, theirs] = sockets();
  hutch_agent* agent = connect(ours.get(), 50);
  hutch_event* event = wait_event(agent);
  REQUIRE(event != nullptr);
  CHECK(event->kind == HUTCH_EVENT_AGENT_LOST);
  CHECK(std::string(event->message) == "the agent did not answer in time");
  hutch_event_free(event);
  hutch_task task = 0;
  hutch_process_options options{};
  options.size = sizeof options;
  CHECK(hutch_process_start(agent, &options, &task, nullptr) == HUTCH_STATE);
  hutch_agent_free(agent);
}

TEST_CASE("an agent that breaks the protocol is lost, with the reason") {
  auto [ours, theirs] = sockets();
  hutch_agent* agent = connect(ours.get());
  send_frame(theirs.get(), wire::FrameType::kHelloReply, 0, encode(wire::HelloReply{}));
  send_frame(theirs.get(), wire::FrameType::kExited, 9, encode(wire::Exited{}));
  hutch_event* event = wait_event(agent);
  CHECK(event->kind == HUTCH_EVENT_AGENT_READY);
  hutch_event_free(event);
  event = wait_event(agent);
  CHECK(event->kind == HUTCH_EVENT_AGENT_LOST);
  CHECK(std::string(event->message) ==
        "the agent in the guest broke the protocol and was dropped: a frame for task 9, which does "
        "not exist");
  hutch_event_free(event);
  hutch_agent_free(agent);
}

TEST_CASE("freeing an output event gives its credit back, also after the agent's end") {
  auto [ours, theirs] = sockets();
  hutch_agent* agent = connect(ours.get());
  send_frame(theirs.get(), wire::FrameType::kHelloReply, 0, encode(wire::HelloReply{}));
  hutch_event_free(wait_event(agent));
  const char* arguments[] = {"x", nullptr};
  auto task = static_cast<uint32_t>(start(agent, arguments));
  send_frame(theirs.get(), wire::FrameType::kStarted, task, encode(wire::Started{1}));
  hutch_event_free(wait_event(agent));
  std::vector<std::byte> bytes(wire::kMaxPayload - 1);
  std::vector<hutch_event*> held;
  for (int i = 0; i < 3; i++) {
    send_frame(theirs.get(), wire::FrameType::kOutput, task, encode(wire::Output{1, bytes}));
    held.push_back(wait_event(agent));
  }
  // Past the hello and the spawn, nothing was sent for output that is held.
  std::byte buffer[65536];
  CHECK(::recv(theirs.get(), buffer, sizeof buffer, MSG_DONTWAIT) > 0);
  CHECK(::recv(theirs.get(), buffer, sizeof buffer, MSG_DONTWAIT) < 0);
  hutch_event_free(held[0]);
  hutch_event_free(held[1]);
  CHECK(::recv(theirs.get(), buffer, sizeof buffer, MSG_DONTWAIT) ==
        static_cast<ssize_t>(sizeof(wire::FrameHeader)) + 5);
  hutch_agent_free(agent);
  hutch_event_free(held[2]);
}

TEST_CASE("a process of the agent's own program is asked for as such") {
  auto [ours, theirs] = sockets();
  hutch_agent* agent = connect(ours.get());
  send_frame(theirs.get(), wire::FrameType::kHelloReply, 0, encode(wire::HelloReply{}));
  hutch_event_free(wait_event(agent));
  std::byte buffer[4096];
  CHECK(::recv(theirs.get(), buffer, sizeof buffer, MSG_DONTWAIT) > 0);  // the hello
  const char* arguments[] = {"rpc", nullptr};
  for (int agent_program : {0, 1}) {
    hutch_process_options options{};
    options.size = sizeof options;
    options.arguments = arguments;
    options.agent_program = agent_program;
    hutch_task task = 0;
    REQUIRE(hutch_process_start(agent, &options, &task, nullptr) == HUTCH_OK);
    ssize_t size = ::recv(theirs.get(), buffer, sizeof buffer, MSG_DONTWAIT);
    REQUIRE(size > static_cast<ssize_t>(sizeof(wire::FrameHeader)));
    auto payload = std::span(buffer, static_cast<size_t>(size)).subspan(sizeof(wire::FrameHeader));
    auto spawn = wire::decode<wire::Spawn>(payload).value();
    CHECK(spawn.arguments == std::vector<std::string>{"rpc"});
    CHECK(spawn.agent_program == (agent_program == 1));
    CHECK_FALSE(spawn.clear_environment);
  }
  hutch_agent_free(agent);
}

// The real agent on a socket, as a program of this host.
struct RealAgent {
  pid_t process = 0;
  hutch_agent* agent = nullptr;

  RealAgent() {
    const char* path = std::getenv("HUTCH_AGENT");
    REQUIRE(path != nullptr);
    auto [ours, theirs] = sockets();
    int inherited = ::dup(theirs.get());  // without close-on-exec
    std::string number = std::to_string(inherited);
    process = ::fork();
    if (process == 0) {
      ::execl(path, path, "--descriptor", number.c_str(), nullptr);
      ::_exit(99);
    }
    ::close(inherited);
    agent = connect(ours.get());
    hutch_event* event = wait_event(agent);
    REQUIRE(event != nullptr);
    REQUIRE(event->kind == HUTCH_EVENT_AGENT_READY);
    hutch_event_free(event);
  }
  ~RealAgent() {
    hutch_agent_free(agent);
    ::waitpid(process, nullptr, 0);
  }
};

TEST_CASE("with the real agent: a process, its output and its end") {
  RealAgent real;
  const char* arguments[] = {"sh", "-c", "cat; echo err >&2; exit 3", nullptr};
  hutch_task task = start(real.agent, arguments, true);
  std::string out, err;
  size_t sent = 0;
  const std::string input(1 << 20, 'i');
  auto write = [&] {
    while (sent < input.size()) {
      size_t taken = 0;
      REQUIRE(hutch_task_write(real.agent, task, input.data() + sent, input.size() - sent, &taken,
                               nullptr) == HUTCH_OK);
      sent += taken;
      if (taken == 0) return;
    }
    REQUIRE(hutch_task_close_input(real.agent, task, nullptr) == HUTCH_OK);
  };
  int status = -1, ends = 0;
  while (status < 0 || ends < 2) {
    hutch_event* event = wait_event(real.agent);
    REQUIRE(event != nullptr);
    if (event->kind == HUTCH_EVENT_STARTED || event->kind == HUTCH_EVENT_WRITABLE) write();
    if (event->kind == HUTCH_EVENT_OUTPUT)
      (event->stream == 1 ? out : err)
          .append(static_cast<const char*>(event->data), event->data_size);
    if (event->kind == HUTCH_EVENT_OUTPUT_END) ends++;
    if (event->kind == HUTCH_EVENT_EXITED) status = static_cast<int>(event->value);
    hutch_event_free(event);
  }
  CHECK(out == input);
  CHECK(err == "err\n");
  CHECK(status == 3);
}

TEST_CASE("with the real agent: a file is written and read back") {
  RealAgent real;
  char name[] = "/tmp/hutch-api-test-XXXXXX";
  Fd file(::mkostemp(name, O_CLOEXEC));
  hutch_file_options options{};
  options.size = sizeof options;
  options.path = name;
  hutch_task task = 0;
  REQUIRE(hutch_file_write(real.agent, &options, &task, nullptr) == HUTCH_OK);
  hutch_event* event = wait_event(real.agent);
  CHECK(event->kind == HUTCH_EVENT_STARTED);
  hutch_event_free(event);
  size_t taken = 0;
  CHECK(hutch_task_write(real.agent, task, "content", 7, &taken, nullptr) == HUTCH_OK);
  CHECK(taken == 7);
  CHECK(hutch_task_close_input(real.agent, task, nullptr) == HUTCH_OK);
  event = wait_event(real.agent);
  CHECK(event->kind == HUTCH_EVENT_DONE);
  CHECK(event->transferred == 7);
  hutch_event_free(event);

  options.offset = 3;
  options.limit = 2;
  REQUIRE(hutch_file_read(real.agent, &options, &task, nullptr) == HUTCH_OK);
  event = wait_event(real.agent);
  REQUIRE(event->kind == HUTCH_EVENT_OUTPUT);
  CHECK(std::string(static_cast<const char*>(event->data), event->data_size) == "te");
  hutch_event_free(event);
  event = wait_event(real.agent);
  CHECK(event->kind == HUTCH_EVENT_DONE);
  hutch_event_free(event);
  ::unlink(name);
}

TEST_CASE("with the real agent: what fails says at which stage") {
  RealAgent real;
  const char* arguments[] = {"/no/such/program", nullptr};
  start(real.agent, arguments);
  hutch_event* event = wait_event(real.agent);
  CHECK(event->kind == HUTCH_EVENT_FAILED);
  CHECK(event->stage == HUTCH_STAGE_EXECUTE);
  CHECK(event->error_number == ENOENT);
  hutch_event_free(event);
  hutch_file_options options{};
  options.size = sizeof options;
  options.path = "/no/such/file";
  hutch_task task = 0;
  REQUIRE(hutch_file_read(real.agent, &options, &task, nullptr) == HUTCH_OK);
  event = wait_event(real.agent);
  CHECK(event->kind == HUTCH_EVENT_FAILED);
  CHECK(event->stage == HUTCH_STAGE_FILE);
  hutch_event_free(event);
}

TEST_CASE("with the real agent: closing a task kills its process") {
  RealAgent real;
  const char* arguments[] = {"sleep", "600", nullptr};
  hutch_task task = start(real.agent, arguments);
  hutch_event* event = wait_event(real.agent);
  REQUIRE(event->kind == HUTCH_EVENT_STARTED);
  auto process = static_cast<pid_t>(event->process_id);
  hutch_event_free(event);
  CHECK(::kill(process, 0) == 0);
  hutch_task_close(real.agent, task);
  for (int i = 0; i < 100 && ::kill(process, 0) == 0; i++) ::usleep(20'000);
  CHECK(::kill(process, 0) < 0);
  CHECK(hutch_process_signal(real.agent, task, SIGTERM, nullptr) == HUTCH_STATE);
}
