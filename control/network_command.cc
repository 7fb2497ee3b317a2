// The verbs `policy` and `net`: what a sandbox may reach, and what it has asked for.
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "base/sys.h"
#include "control/api_client.h"
#include "control/commands.h"
#include "control/config.h"
#include "control/ids.h"
#include "control/private_file.h"
#include "event-log/event_log.h"

namespace hutch::control {
namespace {

using nlohmann::json;
using serve_options::NetworkArguments;

constexpr size_t kMaxLog = size_t{1} << 30;
constexpr int kWaitSeconds = 30;

ApiClient client(const NetworkArguments& arguments) {
  return ApiClient(find_endpoint(load_config(arguments.config).data_folder));
}

int print_policy(const json& policy, bool as_json) {
  if (as_json) {
    fmt::print("{}\n", policy.dump());
  } else if (policy.at("allow_all") == true) {
    fmt::print("all\n");
  } else {
    for (const json& host : policy.at("allow_net")) fmt::print("{}\n", host.get<std::string>());
  }
  return 0;
}

int show_policy(const NetworkArguments& arguments) {
  return print_policy(client(arguments).get(sandbox_path(arguments.id, "policy")), arguments.json);
}

int set_policy(const NetworkArguments& arguments) {
  json body;
  if (arguments.hosts == std::vector<std::string>{"all"}) {
    body["allow_all"] = true;
  } else if (arguments.hosts == std::vector<std::string>{"none"}) {
    body["allow_net"] = json::array();
  } else {
    body["allow_net"] = arguments.hosts;
  }
  return print_policy(client(arguments).put(sandbox_path(arguments.id, "policy"), body),
                      arguments.json);
}

std::string time_text(uint64_t unix_ms) {
  time_t seconds = static_cast<time_t>(unix_ms / 1000);
  tm parts{};
  ::gmtime_r(&seconds, &parts);
  return fmt::format("{:02}:{:02}:{:02}.{:03}", parts.tm_hour, parts.tm_min, parts.tm_sec,
                     unix_ms % 1000);
}

// A line of the log for people. The values come from the guest: only printable ASCII is in a log.
std::string readable(const std::string& line) {
  json entry = json::parse(line, nullptr, false);
  if (!entry.is_object()) return line;
  std::string event = entry.value("event", "?"), name = entry.value("name", "");
  std::string address = entry.value("address", ""), reason = entry.value("reason", "");
  std::string text = fmt::format("{}  {:<6}  ", time_text(entry.value("time", uint64_t{0})), event);
  if (event == "policy") return text + fmt::format("{}", entry.value("rules", ""));
  if (event == "full")
    return text + fmt::format("the log has its {} bytes: the network has ended",
                              entry.value("limit", uint64_t{0}));
  std::string host = !name.empty() ? name : address;
  if (uint64_t port = entry.value("port", uint64_t{0}); port != 0) host += fmt::format(":{}", port);
  text += fmt::format("{:<32}", host);
  if (event == "open")
    return text + fmt::format("  {}, rule {}{}", address, entry.value("rule", ""),
                              reason.empty() ? "" : ", " + reason);
  if (event == "close")
    return text + fmt::format("  {} bytes sent, {} received", entry.value("sent", uint64_t{0}),
                              entry.value("received", uint64_t{0}));
  return text + "  " + reason;
}

int follow(const NetworkArguments& arguments) {
  ApiClient server = client(arguments);
  uint64_t from = 0;
  for (;;) {
    json answer =
        server.get(fmt::format("{}?from={}&wait_s={}", sandbox_path(arguments.id, "network"), from,
                               arguments.no_follow ? 0 : kWaitSeconds));
    for (const json& line : answer.at("lines")) {
      std::string text = line.get<std::string>();
      fmt::print("{}\n", arguments.json ? text : readable(text));
    }
    std::fflush(stdout);
    uint64_t next = answer.at("next").get<uint64_t>();
    bool more = next != from;
    from = next;
    // All that there was before it ended, or that there is.
    if (!more && (arguments.no_follow || answer.at("running") != true)) return 0;
  }
}

// The whole log of a sandbox, as it lies in its file.
std::string whole_log(const NetworkArguments& arguments) {
  ApiClient server = client(arguments);
  std::string text;
  for (uint64_t from = 0;; from = text.size()) {
    json answer =
        server.get(fmt::format("{}?from={}", sandbox_path(arguments.id, "network"), from));
    for (const json& line : answer.at("lines")) text += line.get<std::string>() + "\n";
    if (text.size() == from) return text;
    if (text.size() > kMaxLog) throw std::runtime_error("the log is longer than 1 GiB");
  }
}

int verify(const NetworkArguments& arguments) {
  std::string text = is_sandbox_id(arguments.id) ? whole_log(arguments)
                                                 : value_or_throw(read_file(arguments.id, kMaxLog));
  Result<event_log::Verified> verified = event_log::verify(text);
  if (!verified)
    throw std::runtime_error(fmt::format("the chain is broken: {}", verified.error().text()));
  if (arguments.json) {
    fmt::print("{}\n", json{{"lines", verified->lines}, {"last_hash", verified->last_hash}}.dump());
  } else {
    fmt::print("{} lines, an unbroken chain; its last hash is {}\n", verified->lines,
               verified->last_hash);
  }
  return 0;
}

}  // namespace

void add_network(CLI::App& app, std::function<int()>& action) {
  serve_options::NetworkVerbs verbs = serve_options::add_network(app);
  auto does = [&](CLI::App* verb, int (*what)(const NetworkArguments&)) {
    verb->callback([&action, what, arguments = verbs.arguments] {
      action = [what, arguments] { return what(*arguments); };
    });
  };
  does(verbs.show, show_policy);
  does(verbs.set, set_policy);
  does(verbs.verify, verify);
  verbs.net->callback([&action, verbs] {
    if (verbs.verify->parsed()) return;
    if (verbs.arguments->id.empty()) throw CLI::RequiredError("ID");
    action = [arguments = verbs.arguments] { return follow(*arguments); };
  });
}

}  // namespace hutch::control
