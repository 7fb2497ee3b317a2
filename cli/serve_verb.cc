// The verbs `serve`, `env` and `token`, which the program hutch-serve does.
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <optional>

#include "cli/arguments.h"
#include "cli/child.h"
#include "cli/failure.h"
#include "cli/host_probe.h"
#include "cli/machine.h"
#include "cli/machine_monitor.h"
#include "cli/share.h"

namespace hutch::cli {
namespace {

constexpr int kAddressMs = 10'000;

// Runs hutch-serve with our own words in our place.
[[noreturn]] int become_server(const std::vector<std::string>& words) {
  std::string program = find_program(kServeProgram);
  std::vector<char*> pointers{const_cast<char*>(program.c_str())};
  for (const std::string& word : words) pointers.push_back(const_cast<char*>(word.c_str()));
  pointers.push_back(nullptr);
  ::execv(program.c_str(), pointers.data());
  throw Failure(fail_errno(errno, "running " + program).value());
}

bool asks_for_help(const std::vector<std::string>& words) {
  for (const std::string& word : words)
    if (word == "-h" || word == "--help") return true;
  return false;
}

// Where the server would listen, by its flags and its file.
std::pair<std::string, uint16_t> listening_address(const std::vector<std::string>& words) {
  std::vector<std::string> command{find_program(kServeProgram)};
  command.insert(command.end(), words.begin(), words.end());
  command.emplace_back("--print-address");
  ChildResult result = run_child(command, kAddressMs);
  // It has said itself what is wrong.
  if (result.exit_code != 0) std::exit(result.exit_code);
  size_t space = result.output.find(' ');
  uint16_t port = 0;
  if (space != std::string::npos)
    std::from_chars(result.output.data() + space + 1, result.output.data() + result.output.size(),
                    port);
  if (port == 0) throw Failure("internal", "hutch-serve did not say where it listens");
  return {result.output.substr(0, space), port};
}

int serve(const std::vector<std::string>& words) {
  if (is_in_machine() || asks_for_help(words)) become_server(words);
  Probe probe = cached_probe();
  if (probe.ok) become_server(words);
  auto [address, port] = listening_address(words);
  std::optional<PortForward> forward;
  return run_in_machine(words, false, false, probe.detail,
                        [&, &address = address, &port = port] { forward.emplace(address, port); });
}

// The server's database is used from where the server runs: two systems that both write to one file
// do not see each other's locks.
int use_tokens(const std::vector<std::string>& words) {
  if (is_in_machine() || asks_for_help(words) ||
      machine_status().state != MachineStatus::State::kRunning)
    become_server(words);
  std::vector<std::string> command{executable_path()};
  command.insert(command.end(), words.begin(), words.end());
  return execute_in_machine(command, false, false);
}

CLI::App* add_verb(Program& program, const char* name, const char* description, const char* footer,
                   int (*action)(const std::vector<std::string>&)) {
  CLI::App* verb = program.app.add_subcommand(name, description);
  // Its options, --help too, are hutch-serve's to read.
  verb->set_help_flag();
  verb->prefix_command();
  verb->allow_extras();
  verb->footer(footer);
  verb->callback([&program, action] {
    program.action = [&program, action] { return action(program.words); };
  });
  return verb;
}

}  // namespace

void add_serve(Program& program) {
  add_verb(program, "serve", "Serve sandboxes to the client @deno/sandbox",
           "Examples:\n  hutch serve\n  hutch serve --port 8443 --tls-cert cert.pem --tls-key "
           "key.pem\n  hutch serve --help",
           serve);
  add_verb(program, "env", "Print the variables that lead a client to the server",
           "Examples:\n  hutch env\n  eval \"$(hutch env)\"", become_server);
  add_verb(program, "token", "Make, list and revoke access tokens of the server",
           "Examples:\n  hutch token create --name ci --expires 30d\n  hutch token list\n"
           "  hutch token revoke 3",
           use_tokens);
}

}  // namespace hutch::cli
