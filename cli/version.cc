// The verb `version`.
#include <fmt/format.h>
#include <hutch.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "cli/arguments.h"

namespace hutch::cli {

void add_version(Program& program) {
  CLI::App* verb = program.app.add_subcommand("version", "Print the version");
  auto json = std::make_shared<bool>(false);
  verb->add_flag("--json", *json, "As JSON");
  verb->footer("Examples:\n  hutch version\n  hutch version --json");
  verb->callback([&program, json] {
    program.json = *json;
    program.action = [json] {
      if (*json) {
        nlohmann::ordered_json version{{"version", HUTCH_VERSION}, {"api", hutch_api_version()}};
        fmt::print("{}\n", version.dump());
      } else {
        fmt::print("hutch {}\n", HUTCH_VERSION);
      }
      return 0;
    };
  });
}

}  // namespace hutch::cli
