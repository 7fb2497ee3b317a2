// The verbs `fork`, `pause` and `resume` of sandboxes that run.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "control/api_client.h"
#include "control/clock.h"
#include "control/commands.h"
#include "control/config.h"
#include "serve-options/values.h"

namespace hutch::control {
namespace {

using nlohmann::json;
using serve_options::LifeArguments;
using serve_options::parse_time;

json ask(const LifeArguments& arguments, const char* what, const json& body) {
  ApiClient server(find_endpoint(load_config(arguments.config).data_folder));
  return server.post(sandbox_path(arguments.id, what), body);
}

int fork_sandbox(const LifeArguments& arguments) {
  json answer = ask(arguments, "fork",
                    {{"count", arguments.count},
                     {"stop_at_ms", wall_ms() + parse_time("--timeout", arguments.timeout)}});
  if (arguments.json) {
    fmt::print("{}\n", answer.dump());
  } else {
    for (const json& id : answer.at("ids")) fmt::print("{}\n", id.get<std::string>());
  }
  return 0;
}

int print_state(const LifeArguments& arguments, const json& answer) {
  if (arguments.json) fmt::print("{}\n", answer.dump());
  return 0;
}

int pause_sandbox(const LifeArguments& arguments) {
  return print_state(arguments, ask(arguments, "pause", json::object()));
}

int resume_sandbox(const LifeArguments& arguments) {
  return print_state(arguments, ask(arguments, "resume", json::object()));
}

}  // namespace

void add_life(CLI::App& app, std::function<int()>& action) {
  serve_options::LifeVerbs verbs = serve_options::add_life(app);
  auto does = [&](CLI::App* verb, int (*what)(const LifeArguments&)) {
    verb->callback([&action, what, arguments = verbs.arguments] {
      parse_time("--timeout", arguments->timeout);
      action = [what, arguments] { return what(*arguments); };
    });
  };
  does(verbs.fork, fork_sandbox);
  does(verbs.pause, pause_sandbox);
  does(verbs.resume, resume_sandbox);
}

}  // namespace hutch::control
