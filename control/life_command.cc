// The verbs of saved machines: `fork`, `pause`, `resume`, `snapshot`, `restore`, `snapshots` and
// `template`.
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

ApiClient server_of(const LifeArguments& arguments) {
  return ApiClient(find_endpoint(load_config(arguments.config).data_folder));
}

json ask(const LifeArguments& arguments, const char* what, const json& body) {
  return server_of(arguments).post(sandbox_path(arguments.id, what), body);
}

json how_many(const LifeArguments& arguments) {
  return {{"count", arguments.count},
          {"stop_at_ms", wall_ms() + parse_time("--timeout", arguments.timeout)}};
}

int print_ids(const LifeArguments& arguments, const json& answer) {
  if (arguments.json) {
    fmt::print("{}\n", answer.dump());
  } else {
    for (const json& id : answer.at("ids")) fmt::print("{}\n", id.get<std::string>());
  }
  return 0;
}

int fork_sandbox(const LifeArguments& arguments) {
  return print_ids(arguments, ask(arguments, "fork", how_many(arguments)));
}

int restore_snapshot(const LifeArguments& arguments) {
  return print_ids(arguments, server_of(arguments).post(snapshot_path(arguments.id, "/restore"),
                                                        how_many(arguments)));
}

int take_snapshot(const LifeArguments& arguments) {
  json answer = ask(arguments, "snapshot", {{"name", arguments.name}});
  fmt::print("{}\n", arguments.json ? answer.dump() : answer.at("id").get<std::string>());
  return 0;
}

int list_snapshots(const LifeArguments& arguments) {
  json list = server_of(arguments).get("/api/v3/snapshots");
  if (arguments.json) {
    fmt::print("{}\n", list.dump());
    return 0;
  }
  constexpr const char* kRow = "{:30}{:34}{:26}{:>8}  {}\n";
  fmt::print(kRow, "ID", "NAME", "CREATED", "MIB", "OF");
  for (const json& one : list)
    fmt::print(kRow, one.at("id").get<std::string>(), one.at("name").get<std::string>(),
               one.at("createdAt").get<std::string>(), one.at("memory_mb").get<int64_t>(),
               one.at("sandbox").get<std::string>());
  return 0;
}

int delete_snapshot(const LifeArguments& arguments) {
  json answer = server_of(arguments).remove(snapshot_path(arguments.id, ""));
  if (arguments.json) fmt::print("{}\n", answer.dump());
  return 0;
}

int build_template(const LifeArguments& arguments) {
  json body{{"network", arguments.network}};
  if (arguments.memory_mib != 0) body["memory_mb"] = arguments.memory_mib;
  json answer = server_of(arguments).post("/api/v3/templates", body);
  if (arguments.json) {
    fmt::print("{}\n", answer.dump());
  } else {
    fmt::print("{}\n", answer.at("built") == true ? "built" : "it is there already");
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
  does(verbs.snapshot, take_snapshot);
  does(verbs.restore, restore_snapshot);
  does(verbs.list, list_snapshots);
  does(verbs.remove, delete_snapshot);
  does(verbs.build, build_template);
}

}  // namespace hutch::control
