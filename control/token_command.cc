// The verb `token`: makes, lists and revokes access tokens, also while a server runs.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "control/clock.h"
#include "control/commands.h"
#include "control/config.h"
#include "control/data_folder.h"
#include "control/tokens.h"
#include "serve-options/values.h"

namespace hutch::control {
namespace {

using serve_options::parse_time;
using serve_options::TokenArguments;

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

Store open_store(const TokenArguments& arguments) {
  return Store(DataFolder(load_config(arguments.config).data_folder).database());
}

int create(const TokenArguments& arguments) {
  std::vector<std::string> organisations = arguments.organisations;
  if (organisations.empty()) organisations = {"local"};
  std::optional<int64_t> expires;
  if (!arguments.expires.empty()) expires = wall_ms() + parse_time("--expires", arguments.expires);
  Store store = open_store(arguments);
  NewToken token = create_token(store, arguments.personal, arguments.name, organisations, expires);
  fmt::print("{}\n", token.text);
  fmt::print(stderr, "hutch: token {} is valid {}; it is shown this once\n", token.id,
             expires ? "until " + time_text(expires) : "until it is revoked");
  return 0;
}

int list(const TokenArguments& arguments) {
  Store store = open_store(arguments);
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
    if (arguments.json) {
      array.push_back(row);
      continue;
    }
    fmt::print("{:<4} {:<8} {:<13} {:<20} {:<20} {}\n", token.id, state(token),
               token.personal ? "personal" : "organisation", time_text(token.expires_ms),
               fmt::format("{}", fmt::join(token.organisations, ",")), token.name);
  }
  if (arguments.json) fmt::print("{}\n", array.dump());
  return 0;
}

void check_organisations(const TokenArguments& arguments) {
  for (const std::string& slug : arguments.organisations)
    if (!is_slug(slug))
      throw CLI::ValidationError("--org",
                                 fmt::format("\"{}\" is no slug; it has 2 to 32 of a-z, 0-9 and "
                                             "-, and begins and ends with none of -",
                                             slug));
  if (!arguments.personal && arguments.organisations.size() > 1)
    throw CLI::ValidationError("--org", "only a personal token is for several organisations");
  if (!arguments.expires.empty()) parse_time("--expires", arguments.expires);
}

}  // namespace

void add_token(CLI::App& app, std::function<int()>& action) {
  serve_options::TokenVerb verb = serve_options::add_token(app);
  std::shared_ptr<TokenArguments> arguments = verb.arguments;
  verb.create->callback([&action, arguments] {
    check_organisations(*arguments);
    action = [arguments] { return create(*arguments); };
  });
  verb.list->callback([&action, arguments] { action = [arguments] { return list(*arguments); }; });
  verb.revoke->callback([&action, arguments] {
    action = [arguments] {
      if (open_store(*arguments).revoke_token(arguments->id, wall_ms())) return 0;
      throw std::runtime_error(
          fmt::format("there is no valid token {}; list them: hutch token list", arguments->id));
    };
  });
}

}  // namespace hutch::control
