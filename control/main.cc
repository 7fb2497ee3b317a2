// hutch-serve: the control plane. `hutch serve` and the verbs that speak with it run it.
#include <fmt/format.h>

#include <cstdio>
#include <exception>

#include "base/log.h"
#include "control/commands.h"

namespace {

constexpr int kExitUsage = 2;
constexpr int kExitFailure = 125;

}  // namespace

int main(int count, char** words) {
  hutch::set_log_program("hutch-serve");
  CLI::App app("Serve sandboxes to the client @deno/sandbox", "hutch");
  app.require_subcommand(1);
  app.set_version_flag("--version", "hutch-serve " HUTCH_VERSION, "Print the version");
  std::function<int()> action;
  hutch::control::add_serve(app, action);
  hutch::control::add_env(app, action);
  hutch::control::add_token(app, action);
  hutch::control::add_network(app, action);
  hutch::control::add_life(app, action);
  try {
    app.parse(count, words);
    return action();
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);
    fmt::print(stderr, "hutch: {} (see: hutch VERB --help)\n", error.what());
    return kExitUsage;
  } catch (const std::exception& error) {
    fmt::print(stderr, "hutch: {}\n", error.what());
    return kExitFailure;
  }
}
