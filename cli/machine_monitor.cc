#include "cli/machine_monitor.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/fd.h"
#include "base/sys.h"
#include "cli/failure.h"
#include "cli/runtime_folder.h"

namespace hutch::cli {
namespace {

constexpr int kAnswerMs = 10'000;
constexpr size_t kMaxAnswer = 1 << 20;
constexpr const char* kMachineAddress = "10.0.2.15";
constexpr const char* kHint = "start it anew: hutch machine rm && hutch machine start";

// One conversation: greeting, capabilities, then commands.
class Monitor {
 public:
  Monitor() : socket_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    std::string path = monitor_path();
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path)
      throw Failure("state", fmt::format("{} is too long a name for a socket", path),
                    "set HUTCH_RUNTIME to a folder with a shorter name");
    std::memcpy(address.sun_path, path.c_str(), path.size());
    if (!socket_ ||
        ::connect(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) < 0)
      throw Failure(fail_errno(errno, "connecting to the machine's monitor", kHint).value());
    read_object();
    call({{"execute", "qmp_capabilities"}});
  }

  // A command of QEMU's monitor for people; what it prints, nothing when it worked.
  std::string command(const std::string& line) {
    nlohmann::json result =
        call({{"execute", "human-monitor-command"}, {"arguments", {{"command-line", line}}}});
    return result.is_string() ? result.get<std::string>() : "";
  }

 private:
  nlohmann::json call(const nlohmann::json& request) {
    std::string text = request.dump() + "\n";
    value_or_throw(write_all(socket_.get(), std::as_bytes(std::span(text))));
    for (;;) {
      nlohmann::json answer = read_object();
      if (answer.contains("return")) return answer["return"];
      if (answer.contains("error"))
        throw Failure("machine", "the machine's monitor refused: " + answer["error"].dump(), kHint);
      // An event of the machine's.
    }
  }

  // A line of its own each.
  nlohmann::json read_object() {
    size_t end = 0;
    while ((end = input_.find('\n')) == std::string::npos) {
      pollfd poll{.fd = socket_.get(), .events = POLLIN, .revents = 0};
      int ready = ::poll(&poll, 1, kAnswerMs);
      if (ready < 0 && errno == EINTR) continue;
      char bytes[4096];
      ssize_t count = ready > 0 ? ::read(socket_.get(), bytes, sizeof bytes) : 0;
      if (count <= 0 || input_.size() > kMaxAnswer)
        throw Failure("machine", "the machine's monitor does not answer", kHint);
      input_.append(bytes, static_cast<size_t>(count));
    }
    nlohmann::json object = nlohmann::json::parse(input_.substr(0, end), nullptr, false);
    input_.erase(0, end + 1);
    if (object.is_object()) return object;
    throw Failure("machine", "the machine's monitor spoke another language", kHint);
  }

  Fd socket_;
  std::string input_;
};

}  // namespace

std::string monitor_path() {
  return runtime_folder() + "/machine/monitor";
}

PortForward::PortForward(const std::string& address, uint16_t port)
    : rule_(fmt::format("net tcp:{}:{}", address, port)) {
  in_addr parsed{};
  if (::inet_pton(AF_INET, address.c_str(), &parsed) != 1)
    throw Failure("usage", fmt::format("the emulated machine cannot be reached at {}", address),
                  "listen on an IPv4 address, such as 127.0.0.1");
  Monitor monitor;
  std::string add = fmt::format("hostfwd_add {}-{}:{}", rule_, kMachineAddress, port);
  std::string text = monitor.command(add);
  added_ = text.empty();
  if (added_) return;
  // One that was killed has left its rule.
  monitor.command("hostfwd_remove " + rule_);
  text = monitor.command(add);
  if (!text.empty())
    throw Failure("port", fmt::format("{} port {} cannot be led to the machine", address, port),
                  "is another program listening there? choose another with --port");
}

PortForward::~PortForward() {
  if (!added_) return;
  try {
    Monitor().command("hostfwd_remove " + rule_);
  } catch (const std::exception& error) {
    notice(fmt::format("the machine still holds the port: {}", error.what()));
  }
}

}  // namespace hutch::cli
