// Commands in the emulated machine.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

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

// Where the layer template has data, as OFFSET+SIZE with commas between: the 9p file system, over
// which the machine sees the template, cannot tell.
std::string layer_extents() {
  Fd file = value_or_throw(open_file(find_shared(kLayerFile), O_RDONLY));
  uint64_t size = value_or_throw(file_size(file.get()));
  std::string list;
  for (uint64_t offset = 0; offset < size;) {
    off_t data = ::lseek(file.get(), static_cast<off_t>(offset), SEEK_DATA);
    if (data < 0) break;  // no data any more
    off_t hole = ::lseek(file.get(), data, SEEK_HOLE);
    if (hole < 0) throw Failure(fail_errno(errno, "reading the layer template").value());
    list += fmt::format("{}{}+{}", list.empty() ? "" : ",", data, hole - data);
    offset = static_cast<uint64_t>(hole);
  }
  return list;
}

}  // namespace

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
                   const std::string& reason) {
  notice(
      fmt::format("this host's KVM cannot run guests ({}); using the emulated machine, which is "
                  "slow",
                  reason));
  // Also when it runs: another hutch may just be starting it.
  start_machine({}, kStartTimeout);
  std::vector<std::string> arguments{executable_path()};
  arguments.insert(arguments.end(), words.begin(), words.end());
  return execute_in_machine(arguments, terminal, input, {"HUTCH_LAYER_EXTENTS=" + layer_extents()});
}

}  // namespace hutch::cli
