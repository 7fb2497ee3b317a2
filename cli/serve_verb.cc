// The verb `serve` and those that speak with the server, which the program hutch-serve does.
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
#include "serve-options/verbs.h"

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
  if (is_in_machine()) become_server(words);
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
  if (is_in_machine() || machine_status().state != MachineStatus::State::kRunning)
    become_server(words);
  std::vector<std::string> command{executable_path()};
  command.insert(command.end(), words.begin(), words.end());
  return execute_in_machine(command, false, false);
}

// hutch has read the words to be sure of them; hutch-serve reads them again.
void do_with_words(Program& program, CLI::App& verb,
                   int (*action)(const std::vector<std::string>&)) {
  verb.callback([&program, action] {
    program.action = [&program, action] { return action(program.words); };
  });
}

}  // namespace

void add_serve(Program& program) {
  do_with_words(program, *serve_options::add_serve(program.app).app, serve);
  do_with_words(program, *serve_options::add_env(program.app).app, become_server);
  serve_options::NetworkVerbs network = serve_options::add_network(program.app);
  for (CLI::App* verb : {network.show, network.set, network.net, network.verify})
    do_with_words(program, *verb, become_server);
  serve_options::LifeVerbs life = serve_options::add_life(program.app);
  for (CLI::App* verb : {life.fork, life.pause, life.resume, life.snapshot, life.restore, life.list,
                         life.remove, life.build})
    do_with_words(program, *verb, become_server);
  serve_options::TokenVerb token = serve_options::add_token(program.app);
  for (CLI::App* verb : {token.create, token.list, token.revoke})
    do_with_words(program, *verb, use_tokens);
}

}  // namespace hutch::cli
