// The verb `token`: makes, lists and revokes access tokens, also while a server runs.
#include <fmt/format.h>

#include <charconv>
#include <memory>
#include <nlohmann/json.hpp>

#include "control/clock.h"
#include "control/commands.h"
#include "control/config_options.h"
#include "control/data_folder.h"
#include "control/tokens.h"

namespace hutch::control {
namespace {

// "90s", "30m", "12h" or "30d" in milliseconds.
int64_t parse_time(const std::string& text) {
  int64_t number = 0;
  const char* end = text.data() + text.size();
  std::from_chars_result read = std::from_chars(text.data(), end, number);
  int64_t unit = read.ptr + 1 != end ? 0
                 : *read.ptr == 's'  ? 1000
                 : *read.ptr == 'm'  ? 60'000
                 : *read.ptr == 'h'  ? 3'600'000
                 : *read.ptr == 'd'  ? 86'400'000
                                     : 0;
  constexpr int64_t kMost = int64_t{100} * 366 * 86'400'000;
  if (read.ec != std::errc() || unit == 0 || number <= 0 || number > kMost / unit)
    throw CLI::ValidationError("--expires",
                               fmt::format("\"{}\" is no time; write 12h or 30d", text));
  return number * unit;
}

std::string time_text(const std::optional<int64_t>& ms) {
  if (!ms) return "never";
  time_t seconds = static_cast<time_t>(*ms / 1000);
  tm parts{};
  ::gmtime_r(&seconds, &parts);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", parts.tm_year + 1900, parts.tm_mon + 1,
                     parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec);
}

const char* state(const StoredToken& token) {
  if (token.revoked_ms) return "revoked";
  return token.expires_ms && *token.expires_ms <= wall_ms() ? "expired" : "valid";
}

Store open_store(const ConfigOptions& options) {
  return Store(DataFolder(options.load().data_folder).database());
}

struct CreateArguments {
  bool personal = false;
  std::string name;
  std::vector<std::string> organisations;
  std::optional<int64_t> lifetime_ms;
};

int create(const ConfigOptions& options, const CreateArguments& arguments) {
  std::vector<std::string> organisations = arguments.organisations;
  if (organisations.empty()) organisations = {"local"};
  std::optional<int64_t> expires;
  if (arguments.lifetime_ms) expires = wall_ms() + *arguments.lifetime_ms;
  Store store = open_store(options);
  NewToken token = create_token(store, arguments.personal, arguments.name, organisations, expires);
  fmt::print("{}\n", token.text);
  fmt::print(stderr, "hutch: token {} is valid {}; it is shown this once\n", token.id,
             expires ? "until " + time_text(expires) : "until it is revoked");
  return 0;
}

int list(const ConfigOptions& options, bool as_json) {
  Store store = open_store(options);
  nlohmann::ordered_json array = nlohmann::ordered_json::array();
  for (const StoredToken& token : store.tokens()) {
    nlohmann::ordered_json row{
        {"id", token.id},
        {"kind", token.personal ? "personal" : "organisation"},
        {"organisations", token.organisations},
        {"name", token.name},
        {"created", time_text(token.created_ms)},
        {"expires", token.expires_ms ? nlohmann::ordered_json(time_text(token.expires_ms))
                                     : nlohmann::ordered_json()},
        {"state", state(token)}};
    if (as_json) {
      array.push_back(row);
      continue;
    }
    fmt::print("{:<4} {:<8} {:<13} {:<20} {:<20} {}\n", token.id, state(token),
               token.personal ? "personal" : "organisation", time_text(token.expires_ms),
               fmt::format("{}", fmt::join(token.organisations, ",")), token.name);
  }
  if (as_json) fmt::print("{}\n", array.dump());
  return 0;
}

void add_create(CLI::App& token, std::function<int()>& action) {
  CLI::App* verb = token.add_subcommand("create", "Make a token and print it");
  auto options = ConfigOptions::add(*verb, false);
  auto arguments = std::make_shared<CreateArguments>();
  verb->add_option("--org", arguments->organisations,
                   "Organisation that it is for, made when it is new (default local). Repeatable "
                   "for a personal token")
      ->type_name("SLUG")
      ->expected(1)
      ->take_all();
  verb->add_flag("--personal", arguments->personal,
                 "A token ddp_ for a person, who names the organisation with each request");
  verb->add_option("--name", arguments->name, "What it is for, to find it in the list")
      ->type_name("TEXT");
  verb->add_option_function<std::string>(
          "--expires",
          [arguments](const std::string& text) { arguments->lifetime_ms = parse_time(text); },
          "Valid for this time, such as 12h or 30d (default: until it is revoked)")
      ->type_name("TIME");
  verb->footer("Example:\n  hutch token create --org example --name ci --expires 30d");
  verb->callback([&action, options, arguments] {
    for (const std::string& slug : arguments->organisations)
      if (!is_slug(slug))
        throw CLI::ValidationError("--org",
                                   fmt::format("\"{}\" is no slug; it has 2 to 32 of a-z, 0-9 and "
                                               "-, and begins and ends with none of -",
                                               slug));
    if (!arguments->personal && arguments->organisations.size() > 1)
      throw CLI::ValidationError("--org", "only a personal token is for several organisations");
    action = [options, arguments] { return create(*options, *arguments); };
  });
}

}  // namespace

void add_token(CLI::App& app, std::function<int()>& action) {
  CLI::App* token = app.add_subcommand("token", "Make, list and revoke access tokens");
  token->require_subcommand(1);
  token->footer("Examples:\n  hutch token create --expires 30d\n  hutch token list");
  add_create(*token, action);

  CLI::App* list_verb = token->add_subcommand("list", "List the tokens, without their text");
  auto list_options = ConfigOptions::add(*list_verb, false);
  auto as_json = std::make_shared<bool>(false);
  list_verb->add_flag("--json", *as_json, "As JSON");
  list_verb->footer("Example:\n  hutch token list --json");
  list_verb->callback([&action, list_options, as_json] {
    action = [list_options, as_json] { return list(*list_options, *as_json); };
  });

  CLI::App* revoke = token->add_subcommand("revoke", "Make a token invalid at once");
  auto revoke_options = ConfigOptions::add(*revoke, false);
  auto id = std::make_shared<int64_t>(0);
  revoke->add_option("ID", *id, "Its number in the list")->required();
  revoke->footer("Example:\n  hutch token revoke 3");
  revoke->callback([&action, revoke_options, id] {
    action = [revoke_options, id] {
      if (open_store(*revoke_options).revoke_token(*id, wall_ms())) return 0;
      throw std::runtime_error(
          fmt::format("there is no valid token {}; list them: hutch token list", *id));
    };
  });
}

}  // namespace hutch::control
