// Commands in the emulated machine.
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>

#include "base/sys.h"
#include "cli/failure.h"
#include "cli/machine.h"
#include "cli/relay.h"
#include "cli/share.h"

namespace hutch::cli {
namespace {

// The other side gets every signal too; this is how long it may take to act on a second one.
constexpr uint64_t kSecondSignalGrace = 10'000'000'000;
constexpr std::chrono::seconds kStartTimeout{180};
constexpr uint64_t kFetchTime = 10'000'000'000;
constexpr const char* kMessagesVariable = "HUTCH_MESSAGES";

// Where the base of the layer has data, as OFFSET+SIZE with commas between: the 9p file system,
// over which the machine sees it, cannot tell.
std::string layer_extents() {
  Fd file = value_or_throw(open_file(find_shared(kLayerFile), O_RDONLY));
  uint64_t size = value_or_throw(file_size(file.get()));
  std::string list;
  for (uint64_t offset = 0; offset < size;) {
    off_t data = ::lseek(file.get(), static_cast<off_t>(offset), SEEK_DATA);
    if (data < 0) break;  // no data any more
    off_t hole = ::lseek(file.get(), data, SEEK_HOLE);
    if (hole < 0) throw Failure(fail_errno(errno, "reading the base of the layer").value());
    list += fmt::format("{}{}+{}", list.empty() ? "" : ",", data, hole - data);
    offset = static_cast<uint64_t>(hole);
  }
  return list;
}

// A terminal in the machine has one stream of output. When our standard error leads elsewhere than
// to our terminal, what hutch itself says in there (errors, --timings) is kept in a file of the
// machine's memory and fetched at the end.
class Messages {
 public:
  static bool are_needed(bool terminal) {
    struct stat out {
    }, err{};
    return terminal && ::fstat(STDOUT_FILENO, &out) == 0 && ::fstat(STDERR_FILENO, &err) == 0 &&
           (out.st_dev != err.st_dev || out.st_ino != err.st_ino);
  }
  std::string variable() const { return fmt::format("{}={}", kMessagesVariable, path_); }

  // Writes them to our standard error, and removes them there.
  void fetch(hutch_agent* agent) const {
    const char* arguments[] = {"sh", "-c", "cat \"$0\" && rm \"$0\"", path_.c_str(), nullptr};
    hutch_process_options options{};
    options.size = sizeof options;
    options.arguments = arguments;
    hutch_task task = 0;
    hutch_error* error = nullptr;
    if (hutch_process_start(agent, &options, &task, &error) != HUTCH_OK) throw_error(error);
    EventSource source(agent);
    for (uint64_t end = monotonic_ns() + kFetchTime; monotonic_ns() < end;) {
      EventHandle event = source.next();
      if (!event) {
        pollfd poll{.fd = source.fd(), .events = POLLIN, .revents = 0};
        ::poll(&poll, 1, 1000);
        continue;
      }
      if (event->kind == HUTCH_EVENT_AGENT_LOST) return;
      if (event->task != task) continue;
      if (event->kind == HUTCH_EVENT_OUTPUT && event->stream == 1)
        value_or_throw(
            write_all(STDERR_FILENO,
                      std::span(static_cast<const std::byte*>(event->data), event->data_size)));
      if (event->kind == HUTCH_EVENT_EXITED || event->kind == HUTCH_EVENT_FAILED) return;
    }
  }

 private:
  std::string path_ = fmt::format("/dev/shm/hutch-messages-{}-{}", ::getpid(), monotonic_ns());
};

}  // namespace

void take_messages_variable() {
  const char* path = std::getenv(kMessagesVariable);
  if (path == nullptr || !is_in_machine()) return;
  Fd file = value_or_throw(open_file(path, O_WRONLY | O_CREAT | O_APPEND, 0600));
  ::unsetenv(kMessagesVariable);
  if (::dup2(file.get(), STDERR_FILENO) < 0)
    throw Failure(fail_errno(errno, "redirecting standard error").value());
}

int execute_in_machine(const std::vector<std::string>& arguments, bool terminal, bool input,
                       const std::vector<std::string>& extra_environment) {
  AgentHandle agent = connect_to_machine();
  Signals signals;
  RelayOptions options;
  options.second_signal_grace_ns = kSecondSignalGrace;
  Relay relay(EventSource(agent.get()), signals, std::move(options), [](const hutch_event& event) {
    if (event.kind != HUTCH_EVENT_AGENT_LOST) return;
    // Says so with the end of its console when the machine itself has died.
    connect_to_machine();
    throw Failure("machine",
                  fmt::format("the connection to the emulated machine ended: {}", event.message));
  });
  Command command;
  command.arguments = arguments;
  for (char** variable = environ; *variable != nullptr; variable++)
    command.environment.emplace_back(*variable);
  command.environment.emplace_back("HUTCH_IN_MACHINE=1");
  for (const std::string& variable : extra_environment) command.environment.push_back(variable);
  std::error_code error;
  command.directory = std::filesystem::current_path(error).string();
  if (error) throw Failure("directory", "the working directory is gone: " + error.message());
  command.user = std::to_string(::getuid());
  command.terminal = terminal;
  command.input = input;
  return relay.run(agent.get(), command);
}

int run_in_machine(const std::vector<std::string>& words, bool terminal, bool input,
                   const std::string& reason, const std::function<void()>& started) {
  notice(
      fmt::format("this host's KVM cannot run guests ({}); using the emulated machine, which is "
                  "slow; see hutch doctor",
                  reason));
  // Also when it runs: another hutch may just be starting it.
  start_machine({}, kStartTimeout);
  if (started) started();
  std::vector<std::string> arguments{executable_path()};
  arguments.insert(arguments.end(), words.begin(), words.end());
  std::vector<std::string> environment{"HUTCH_LAYER_EXTENTS=" + layer_extents()};
  if (!Messages::are_needed(terminal))
    return execute_in_machine(arguments, terminal, input, environment);
  Messages messages;
  environment.push_back(messages.variable());
  int exit_code = execute_in_machine(arguments, terminal, input, environment);
  messages.fetch(connect_to_machine().get());
  return exit_code;
}

}  // namespace hutch::cli
