#include "guest-agent/test_client.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <thread>

#include "base/sys.h"

namespace hutch::agent {

using namespace protocol::agent;  // NOLINT: the wire's names

namespace {
constexpr std::chrono::seconds kPatience{30};

// In a child: away from the mounts of this host, with an empty /etc and /run.
bool has_own_mounts() {
  return ::unshare(CLONE_NEWNS) == 0 &&
         ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
         ::mount("tmpfs", "/etc", "tmpfs", 0, nullptr) == 0 &&
         ::mount("tmpfs", "/run", "tmpfs", 0, nullptr) == 0;
}
}  // namespace

std::string agent_program() {
  const char* program = std::getenv("HUTCH_AGENT");
  REQUIRE_MESSAGE(program != nullptr, "HUTCH_AGENT must name the agent program");
  return program;
}

std::string self() {
  return std::to_string(::getuid());
}

bool can_own_system() {
  pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) ::_exit(::geteuid() == 0 && has_own_mounts() ? 0 : 1);
  int status = -1;
  return ::waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

bool eventually(const std::function<bool()>& condition) {
  auto limit = std::chrono::steady_clock::now() + kPatience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > limit) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

std::unique_ptr<TestClient> TestClient::on_socket(Fd socket) {
  return std::unique_ptr<TestClient>(new TestClient(std::move(socket)));
}

TestClient::TestClient(const AgentOptions& options) {
  std::string program = agent_program();
  std::vector<std::string> words = {"hutch-agent"};
  std::vector<Fd> theirs;
  for (size_t i = 0; i <= options.further_connections; i++) {
    auto pair = socket_pair(SOCK_STREAM).value();
    further_.push_back(std::move(pair.first));
    words.push_back(i == 0 ? "--descriptor" : "--then-descriptor");
    words.push_back(std::to_string(pair.second.get()));
    theirs.push_back(std::move(pair.second));
  }
  if (options.owns_system) words.insert(words.end(), {"--owns-system", "yes"});
  if (!options.cgroups.empty()) words.insert(words.end(), {"--cgroups", options.cgroups});
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  log_ = Fd(::memfd_create("log", MFD_CLOEXEC));
  REQUIRE(log_);
  // Opened here, for another user may not reach the file.
  Fd executable = open_file(program, O_PATH).value();
  // Built with a sanitizer, it must not keep what it has freed.
  ::setenv("ASAN_OPTIONS", "quarantine_size_mb=0:thread_local_quarantine_size_kb=0", 1);
  agent_ = ::fork();
  REQUIRE(agent_ >= 0);
  if (agent_ == 0) {
    if (::dup2(log_.get(), STDERR_FILENO) < 0) ::_exit(99);
    for (const Fd& socket : theirs) {
      if (::fcntl(socket.get(), F_SETFD, 0) < 0) ::_exit(99);
    }
    if (options.owns_system && !has_own_mounts()) ::_exit(96);
    if (auto user = options.user;
        user && (::setresgid(*user, *user, *user) < 0 || ::setresuid(*user, *user, *user) < 0))
      ::_exit(98);
    ::fexecve(executable.get(), arguments.data(), environ);
    ::_exit(97);
  }
  socket_ = std::move(further_.front());
  further_.pop_front();
}

void TestClient::lose_connection() {
  REQUIRE_FALSE(further_.empty());
  socket_ = std::move(further_.front());
  further_.pop_front();
  reader_ = {};
  answers_.clear();
  answers_[kAdoptedChannel].started = Started{};
  next_channel_ = kAdoptedChannel + 1;
  hello_.reset();
  hung_up_ = false;
}

std::string TestClient::freeze() {
  frozen_.reset();
  send(FrameType::kFreeze, 0);
  REQUIRE(wait([&] { return frozen_.has_value(); }));
  return frozen_->problem;
}

std::string TestClient::thaw() {
  thawed_.reset();
  send(FrameType::kThaw, 0);
  REQUIRE(wait([&] { return thawed_.has_value(); }));
  return thawed_->problem;
}

TestClient::~TestClient() {
  if (agent_ > 0) hang_up();
}

int TestClient::hang_up() {
  further_.clear();
  socket_.reset();
  int status = -1;
  bool is_over = eventually([&] { return ::waitpid(agent_, &status, WNOHANG) == agent_; });
  if (!is_over) {
    ::kill(agent_, SIGKILL);
    ::waitpid(agent_, &status, 0);
  }
  agent_ = -1;
  CHECK_MESSAGE(is_over, "the agent outlives its connection");
  return status;
}

std::string TestClient::log() const {
  std::string text(65536, '\0');
  ssize_t count = ::pread(log_.get(), text.data(), text.size(), 0);
  text.resize(count > 0 ? static_cast<size_t>(count) : 0);
  return text;
}

void TestClient::send_raw(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    ssize_t count = ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return;  // the agent is gone: what waits for its answer will tell
    bytes = bytes.subspan(static_cast<size_t>(count));
  }
}

void TestClient::send(FrameType type, uint32_t channel, std::span<const std::byte> payload) {
  send_raw(encode_frame(type, channel, payload));
}

void TestClient::send_text(FrameType type, uint32_t channel, std::string_view text) {
  send(type, channel, std::as_bytes(std::span(text)));
}

HelloReply TestClient::greet(const Hello& hello) {
  send_message(FrameType::kHello, 0, hello);
  REQUIRE(wait([&] { return hello_.has_value(); }));
  return *hello_;
}

uint32_t TestClient::spawn(const Spawn& request) {
  uint32_t channel = next_channel_++;
  answers_[channel].ended[2] = request.terminal;  // it has one stream only
  send_message(FrameType::kSpawn, channel, request);
  return channel;
}

uint32_t TestClient::shell(const std::string& script) {
  return spawn({.arguments = {"sh", "-c", script}, .user = self()});
}

uint32_t TestClient::read_file(const ReadFile& request) {
  uint32_t channel = next_channel_++;
  send_message(FrameType::kReadFile, channel, request);
  return channel;
}

uint32_t TestClient::write_file(const WriteFile& request) {
  uint32_t channel = next_channel_++;
  send_message(FrameType::kWriteFile, channel, request);
  return channel;
}

bool TestClient::receive(std::chrono::steady_clock::time_point limit) {
  pollfd wanted{.fd = socket_.get(), .events = POLLIN, .revents = 0};
  auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
      limit - std::chrono::steady_clock::now());
  if (left.count() <= 0 || ::poll(&wanted, 1, static_cast<int>(left.count())) <= 0) return false;
  static std::array<std::byte, 256 * 1024> buffer;
  ssize_t count = ::recv(socket_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return true;
  if (count <= 0) {
    hung_up_ = true;
    return false;
  }
  std::span<const std::byte> input(buffer.data(), static_cast<size_t>(count));
  for (;;) {
    auto frame = reader_.next(input);
    REQUIRE_MESSAGE(frame, "the agent sent no frame");
    if (!*frame) return true;
    take(**frame);
  }
}

void TestClient::take(const Frame& frame) {
  Answer& answer = answers_[frame.channel];
  auto payload = std::span<const std::byte>(frame.payload);
  switch (frame.type) {
    case FrameType::kHelloReply:
      hello_ = decode<HelloReply>(payload).value();
      break;
    case FrameType::kFrozen:
      frozen_ = decode<Frozen>(payload).value();
      break;
    case FrameType::kThawed:
      thawed_ = decode<Thawed>(payload).value();
      break;
    case FrameType::kStarted:
      CHECK(!answer.started);
      answer.started = decode<Started>(payload).value();
      break;
    case FrameType::kFailed:
      answer.failed = decode<Failed>(payload).value();
      break;
    case FrameType::kExited:
      CHECK(!answer.exited);
      answer.exited = decode<Exited>(payload).value();
      answer.before_exit[1] = answer.output[1];
      answer.before_exit[2] = answer.output[2];
      break;
    case FrameType::kDone:
      answer.done = decode<Done>(payload).value();
      break;
    case FrameType::kOutputEnd: {
      uint8_t stream = decode<OutputEnd>(payload).value().stream;
      CHECK(!answer.ended[stream]);
      answer.ended[stream] = true;
      break;
    }
    case FrameType::kInputCredit:
      CHECK(answer.started);
      answer.input_credit += decode<InputCredit>(payload).value().bytes;
      break;
    case FrameType::kOutput: {
      auto output = decode<Output>(payload).value();
      CHECK(!answer.ended[output.stream]);
      answer.output[output.stream].append(reinterpret_cast<const char*>(output.bytes.data()),
                                          output.bytes.size());
      if (generous_)
        send_message(
            FrameType::kCredit, frame.channel,
            Credit{.stream = output.stream, .bytes = static_cast<uint32_t>(output.bytes.size())});
      break;
    }
    default:
      FAIL("the agent sent a frame of type " << static_cast<int>(frame.type));
  }
}

bool TestClient::wait(const std::function<bool()>& condition) {
  auto limit = std::chrono::steady_clock::now() + kPatience;
  while (!condition()) {
    if (!receive(limit)) return condition();
  }
  return true;
}

const Answer& TestClient::wait_for_end(uint32_t channel) {
  Answer& answer = answers_[channel];
  CHECK(wait([&] {
    return answer.failed || answer.done || (answer.exited && answer.ended[1] && answer.ended[2]);
  }));
  return answer;
}

const Answer& TestClient::wait_for_exit(uint32_t channel) {
  Answer& answer = answers_[channel];
  CHECK(wait([&] { return answer.exited.has_value(); }));
  return answer;
}

bool TestClient::wait_for_hang_up() {
  wait([] { return false; });
  return hung_up_;
}

}  // namespace hutch::agent
