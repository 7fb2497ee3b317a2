#include "control/routes.h"

#include <fmt/format.h>
#include <time.h>

#include <nlohmann/json.hpp>
#include <vector>

#include "base/log.h"
#include "control/ids.h"
#include "control/openapi.h"
#include "control/problem.h"
#include "control/tokens.h"

namespace hutch::control {
namespace {

using nlohmann::json;
using Answer = std::function<void(ApiResponse)>;
using Words = std::vector<std::string>;

int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

std::string decode_percent(std::string_view text) {
  std::string result;
  for (size_t i = 0; i < text.size(); i++) {
    if (text[i] == '+') {
      result += ' ';
    } else if (text[i] != '%') {
      result += text[i];
    } else {
      int high = i + 2 < text.size() ? hex_value(text[i + 1]) : -1;
      int low = i + 2 < text.size() ? hex_value(text[i + 2]) : -1;
      if (high < 0 || low < 0)
        throw Problem(400, "INVALID_QUERY",
                      "the query holds a percent sign without two hex digits");
      result += static_cast<char>(high << 4 | low);
      i += 2;
    }
  }
  return result;
}

struct Target {
  Words path;  // the parts between slashes, as sent
  std::vector<std::pair<std::string, std::string>> query;
};

template <typename Take>
void split(std::string_view text, char separator, Take take) {
  while (!text.empty()) {
    size_t end = std::min(text.find(separator), text.size());
    if (end > 0) take(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
}

Target parse_target(std::string_view text) {
  Target target;
  size_t mark = std::min(text.find('?'), text.size());
  split(text.substr(0, mark), '/', [&](std::string_view part) { target.path.emplace_back(part); });
  split(text.substr(std::min(mark + 1, text.size())), '&', [&](std::string_view part) {
    size_t equals = std::min(part.find('='), part.size());
    target.query.emplace_back(decode_percent(part.substr(0, equals)),
                              decode_percent(part.substr(std::min(equals + 1, part.size()))));
  });
  return target;
}

std::string iso_time(int64_t ms) {
  time_t seconds = static_cast<time_t>(ms / 1000);
  tm parts{};
  ::gmtime_r(&seconds, &parts);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z", parts.tm_year + 1900,
                     parts.tm_mon + 1, parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec,
                     ms % 1000);
}

// "labels[KEY]" is a label that is asked for.
Labels wanted_labels(const Target& target) {
  Labels labels;
  for (const auto& [name, value] : target.query)
    if (name.starts_with("labels[") && name.ends_with(']'))
      labels[name.substr(7, name.size() - 8)] = value;
  return labels;
}

ApiResponse json_response(const json& body) {
  return {200, body.dump(-1, ' ', false, json::error_handler_t::replace)};
}

ApiResponse list_sandboxes(const Services& services, const std::string& organisation,
                           const Target& target) {
  json list = json::array();
  for (const StoredSandbox& sandbox : services.sandboxes.list(organisation, wanted_labels(target)))
    list.push_back(
        {{"id", sandbox.id},
         {"createdAt", iso_time(sandbox.created_ms)},
         {"stoppedAt", sandbox.stopped_ms ? json(iso_time(*sandbox.stopped_ms)) : json()},
         {"region", sandbox.region},
         {"status", sandbox.stopped_ms ? "stopped" : "running"},
         {"labels", sandbox.labels}});
  return json_response(list);
}

void end_sandbox(const Services& services, const std::string& organisation, const std::string& id,
                 Answer answer) {
  std::shared_ptr<Sandbox> sandbox = services.sandboxes.find_any(organisation, id);
  // One that has ended already is as it was asked to be.
  if (!sandbox) return answer(json_response(json::object()));
  sandbox->end("the sandbox was killed",
               [answer = std::move(answer)] { answer(json_response(json::object())); });
}

ApiResponse extend_sandbox(const Services& services, const std::string& organisation,
                           const std::string& id, const std::string& body) {
  std::shared_ptr<Sandbox> sandbox = services.sandboxes.find(organisation, id);
  json wanted = json::parse(body, nullptr, false);
  if (!wanted.is_object() || !wanted.contains("stop_at_ms") ||
      !wanted["stop_at_ms"].is_number_integer())
    throw Problem(400, "INVALID_BODY", "the body wants {\"stop_at_ms\": milliseconds since 1970}");
  int64_t stop = services.sandboxes.extend(*sandbox, wanted["stop_at_ms"].get<int64_t>());
  return json_response({{"stop_at_ms", stop}});
}

ApiResponse expose(const Services& services, const std::string& organisation, const Words& path) {
  services.sandboxes.find(organisation, path[3]);
  if (path[5] != "http" && path[5] != "ssh" && path[5] != "vscode")
    throw Problem(404, "NOT_FOUND", "there is no such route");
  throw Problem(501, "NOT_SUPPORTED",
                fmt::format("this server cannot expose {} of a sandbox yet", path[5]));
}

bool is_platform(const std::string& word) {
  for (const char* name : {"apps", "layers", "revisions", "timelines", "volumes", "snapshots"})
    if (word == name) return true;
  return false;
}

void route_sandbox(const Services& services, const ApiRequest& request, const Target& target,
                   const std::string& organisation, Answer answer) {
  const Words& path = target.path;
  bool v3 = path[1] == "v3";
  bool plural = path[2] == "sandboxes";
  if (path.size() == 3 && plural) {
    if (request.method != "GET")
      throw Problem(405, "METHOD_NOT_ALLOWED", "the list of sandboxes can only be read");
    return answer(list_sandboxes(services, organisation, target));
  }
  if (path.size() == 4 && !is_sandbox_id(path[3])) throw sandbox_not_found();
  if (path.size() == 4 && request.method == "DELETE")
    return end_sandbox(services, organisation, path[3], std::move(answer));
  if (path.size() == 4 && v3 && request.method == "PATCH")
    return answer(extend_sandbox(services, organisation, path[3], request.body));
  if (path.size() == 6 && v3 && path[4] == "expose" && request.method == "POST")
    return answer(expose(services, organisation, path));
  if (path.size() == 5 && path[4] == "deploy")
    throw Problem(501, "NOT_SUPPORTED", "this server cannot deploy a sandbox");
  throw Problem(404, "NOT_FOUND", "there is no such route");
}

void route_or_throw(Services services, const ApiRequest& request, Answer answer) {
  Target target = parse_target(request.target);
  const Words& path = target.path;
  if (path.size() == 1 && request.method == "GET") {
    if (path[0] == "healthz")
      return answer(json_response({{"status", "ok"}, {"version", HUTCH_VERSION}}));
    if (path[0] == "openapi.json") return answer({200, std::string(openapi_document())});
  }
  if (path.size() < 3 || path[0] != "api" || (path[1] != "v2" && path[1] != "v3"))
    throw Problem(404, "NOT_FOUND", "there is no such route");
  std::string organisation =
      authenticate(services.store, request.authorization, request.organisation);
  if (path[1] == "v2" && is_platform(path[2]))
    throw Problem(501, "NOT_SUPPORTED", fmt::format("this server has no {} yet", path[2]));
  if (path[2] == "sandboxes" || (path[1] == "v3" && path[2] == "sandbox"))
    return route_sandbox(services, request, target, organisation, std::move(answer));
  throw Problem(404, "NOT_FOUND", "there is no such route");
}

}  // namespace

ApiResponse problem_response(const Problem& problem) {
  return {problem.status(), problem.json()};
}

void route(Services services, const ApiRequest& request, Answer answer) {
  try {
    route_or_throw(services, request, answer);
  } catch (const Problem& problem) {
    answer(problem_response(problem));
  } catch (const std::exception& error) {
    log_error("a request failed: {}", error.what());
    answer(problem_response(Problem(500, "INTERNAL_ERROR", "the server failed; its log says why")));
  }
}

UpgradeTarget upgrade_target(const std::string& text) {
  Target target = parse_target(text);
  const Words& path = target.path;
  if (path.size() >= 4 && path[0] == "api" && path[1] == "v3") {
    if (path.size() == 4 && path[2] == "sandboxes" && path[3] == "create") return {};
    if (path.size() == 5 && path[2] == "sandbox" && path[4] == "connect") {
      if (!is_sandbox_id(path[3])) throw sandbox_not_found();
      return {path[3]};
    }
  }
  throw Problem(404, "NOT_FOUND", "there is no WebSocket here");
}

}  // namespace hutch::control
