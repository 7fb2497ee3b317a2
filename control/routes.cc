#include "control/routes.h"

#include <fmt/format.h>
#include <time.h>

#include <charconv>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/log.h"
#include "control/ids.h"
#include "control/openapi.h"
#include "control/problem.h"
#include "control/route_call.h"
#include "control/tokens.h"

namespace hutch::control {
namespace {

using nlohmann::json;
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

// "labels[KEY]" is a label that is asked for.
Labels wanted_labels(const Target& target) {
  Labels labels;
  for (const auto& [name, value] : target.query)
    if (name.starts_with("labels[") && name.ends_with(']'))
      labels[name.substr(7, name.size() - 8)] = value;
  return labels;
}

// How it came to be, while it serves.
std::optional<Way> way_of(const Call& call, const StoredSandbox& stored) {
  if (stored.stopped_ms) return {};
  std::shared_ptr<Sandbox> sandbox = call.services.sandboxes.find_any(call.organisation, stored.id);
  return sandbox ? sandbox->way() : std::nullopt;
}

void list_sandboxes(const Call& call, Answer answer) {
  json list = json::array();
  for (const StoredSandbox& sandbox :
       call.services.sandboxes.list(call.organisation, wanted_labels(call.target))) {
    std::optional<Way> way = way_of(call, sandbox);
    list.push_back(
        {{"id", sandbox.id},
         {"path", way ? json(path_name(way->path)) : json()},
         {"process", way ? json(process_name(*way)) : json()},
         {"createdAt", iso_time(sandbox.created_ms)},
         {"stoppedAt", sandbox.stopped_ms ? json(iso_time(*sandbox.stopped_ms)) : json()},
         {"region", sandbox.region},
         {"status", sandbox.stopped_ms ? "stopped" : "running"},
         {"labels", sandbox.labels}});
  }
  answer(json_response(list));
}

void end_sandbox(const Call& call, Answer answer) {
  std::shared_ptr<Sandbox> sandbox = call.services.sandboxes.find_any(call.organisation, call.id);
  // One that has ended already is as it was asked to be.
  if (!sandbox) return answer(json_response(json::object()));
  sandbox->end("the sandbox was killed",
               [answer = std::move(answer)] { answer(json_response(json::object())); });
}

void extend_sandbox(const Call& call, Answer answer) {
  std::shared_ptr<Sandbox> sandbox = call.services.sandboxes.find(call.organisation, call.id);
  json wanted = json::parse(call.request.body, nullptr, false);
  if (!wanted.is_object() || !wanted.contains("stop_at_ms") ||
      !wanted["stop_at_ms"].is_number_integer())
    throw Problem(400, "INVALID_BODY", "the body wants {\"stop_at_ms\": milliseconds since 1970}");
  int64_t stop = call.services.sandboxes.extend(*sandbox, wanted["stop_at_ms"].get<int64_t>());
  answer(json_response({{"stop_at_ms", stop}}));
}

json policy_json(const std::optional<policy::Policy>& policy) {
  if (!policy) throw no_network();
  return {{"allow_all", policy->allows_all()}, {"allow_net", policy->patterns()}};
}

void show_policy(const Call& call, Answer answer) {
  answer(json_response(
      policy_json(call.services.sandboxes.find(call.organisation, call.id)->policy())));
}

void set_policy(const Call& call, Answer answer) {
  std::shared_ptr<Sandbox> sandbox = call.services.sandboxes.find(call.organisation, call.id);
  json wanted = json::parse(call.request.body, nullptr, false);
  json hosts = wanted.is_object() && wanted.contains("allow_net") ? wanted["allow_net"] : json();
  bool all = wanted.is_object() && wanted.contains("allow_all") && wanted["allow_all"] == true;
  // Neither or both leaves open what is meant.
  if (all ? !hosts.is_null() && hosts != json::array() : !hosts.is_array())
    throw Problem(400, "INVALID_BODY",
                  R"(the body wants {"allow_net": [hosts]} or {"allow_all": true})");
  sandbox->set_policy(all ? policy::Policy::all() : parse_allow_net(hosts));
  answer(json_response(policy_json(sandbox->policy())));
}

// A number of the query; absent: 0.
uint64_t query_number(const Target& target, std::string_view name, uint64_t most) {
  for (const auto& [key, value] : target.query) {
    if (key != name) continue;
    uint64_t number = 0;
    auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
    if (error == std::errc() && end == value.data() + value.size() && number <= most) return number;
    throw Problem(400, "INVALID_QUERY", fmt::format("{} wants a number up to {}", name, most));
  }
  return 0;
}

void answer_with_log(const Services& services, const std::string& organisation,
                     const std::string& id, uint64_t from, const Answer& answer) {
  try {
    // First whether it runs: what it writes before its end is then not missed.
    bool runs = services.sandboxes.find_any(organisation, id) != nullptr;
    std::string text = services.logs.read(id, from);
    json lines = json::array();
    for (size_t start = 0; start < text.size(); start = text.find('\n', start) + 1)
      lines.push_back(text.substr(start, text.find('\n', start) - start));
    answer(json_response({{"lines", lines}, {"next", from + text.size()}, {"running", runs}}));
  } catch (const Problem& problem) {
    answer(problem_response(problem));
  }
}

// The lines from a byte on; with wait_s, once there is one.
void show_network(const Call& call, Answer answer) {
  uint64_t from = query_number(call.target, "from", UINT64_MAX);
  uint64_t wait = query_number(call.target, "wait_s", 60);
  const Services& services = call.services;
  bool runs = services.sandboxes.find_any(call.organisation, call.id) != nullptr;
  if (wait == 0 || !runs || !services.logs.read(call.id, from).empty())
    return answer_with_log(services, call.organisation, call.id, from, answer);
  services.logs.wait(services.sandboxes.context(), call.id, from, std::chrono::seconds(wait),
                     [services, organisation = call.organisation, id = call.id, from, answer] {
                       answer_with_log(services, organisation, id, from, answer);
                     });
}

void expose(const Call& call, Answer) {
  call.services.sandboxes.find(call.organisation, call.id);
  throw Problem(501, "NOT_SUPPORTED",
                fmt::format("this server cannot expose {} of a sandbox yet", call.target.path[5]));
}

void deploy(const Call&, Answer) {
  throw Problem(501, "NOT_SUPPORTED", "this server cannot deploy a sandbox");
}

void absent(const Call& call, Answer) {
  throw Problem(501, "NOT_SUPPORTED",
                fmt::format("this server has no {} yet", call.target.path[2]));
}

void upgrade(const Call&, Answer) {
  throw Problem(426, "UPGRADE_REQUIRED", "this is a WebSocket; ask for an upgrade to it");
}

void health(const Call& call, Answer answer) {
  call.services.store.check();
  answer(json_response({{"status", "ok"}, {"version", HUTCH_VERSION}}));
}

void describe(const Call&, Answer answer) {
  answer({200, openapi_document(route_infos())});
}

struct Route {
  RouteInfo info;
  Handler handler;
};

constexpr const char* kDeadline =
    R"({"requestBody": {"content": {"application/json":
      {"schema": {"$ref": "#/components/schemas/Deadline"}}}},
    "responses": {"200": {"description": "Moved", "content": {"application/json":
      {"schema": {"$ref": "#/components/schemas/Deadline"}}}}}})";
constexpr const char* kList =
    R"({"parameters": [{"name": "labels", "in": "query", "style": "deepObject", "explode": true,
      "schema": {"type": "object", "additionalProperties": {"type": "string"}}}],
    "responses": {"200": {"description": "The list", "content": {"application/json": {"schema":
      {"type": "array", "items": {"$ref": "#/components/schemas/Sandbox"}}}}}}})";
constexpr const char* kGone = R"({"responses": {"200": {"description": "Gone"}}})";
constexpr const char* kOpen =
    R"({"security": [], "responses": {"200": {"description": "It is here"}}})";
constexpr const char* kCreate =
    R"({"parameters": [{"name": "x-deno-sandbox-config", "in": "header",
      "schema": {"type": "string"}, "description": "JSON in base64"}],
    "responses": {"101": {"description": "It serves; x-deno-sandbox-id is its id"}}})";
constexpr const char* kConnect =
    R"({"responses": {"101": {"description": "Connected; x-deno-sandbox-id is its id"}}})";
constexpr const char* kFork =
    R"({"requestBody": {"content": {"application/json": {"schema": {"type": "object",
      "required": ["stop_at_ms"], "properties": {
       "count": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 1},
       "stop_at_ms": {"type": "integer", "description": "Milliseconds since 1970"}}}}}},
    "responses": {"200": {"description": "They serve", "content": {"application/json": {"schema":
      {"type": "object", "properties": {"ids": {"type": "array", "items": {"type": "string"}}}}}}}}})";
constexpr const char* kTake =
    R"({"requestBody": {"content": {"application/json": {"schema": {"type": "object",
      "properties": {"name": {"type": "string"}}}}}},
    "responses": {"200": {"description": "It is kept", "content": {"application/json":
      {"schema": {"$ref": "#/components/schemas/Snapshot"}}}}}})";
constexpr const char* kSnapshot =
    R"({"responses": {"200": {"description": "It", "content": {"application/json":
      {"schema": {"$ref": "#/components/schemas/Snapshot"}}}}}})";
constexpr const char* kSnapshots =
    R"({"responses": {"200": {"description": "The list", "content": {"application/json": {"schema":
      {"type": "array", "items": {"$ref": "#/components/schemas/Snapshot"}}}}}}})";
constexpr const char* kTemplate =
    R"({"requestBody": {"content": {"application/json": {"schema": {"type": "object",
      "properties": {"memory_mb": {"type": "integer"}, "network": {"type": "boolean"}}}}}},
    "responses": {"200": {"description": "It is there", "content": {"application/json": {"schema":
      {"type": "object", "properties": {"built": {"type": "boolean"}}}}}}}})";
constexpr const char* kPaused =
    R"({"responses": {"200": {"description": "It does", "content": {"application/json": {"schema":
      {"type": "object", "properties": {"paused": {"type": "boolean"}}}}}}}})";
constexpr const char* kPolicy =
    R"({"responses": {"200": {"description": "Now", "content": {"application/json":
      {"schema": {"$ref": "#/components/schemas/Policy"}}}}}})";
constexpr const char* kSetPolicy =
    R"({"requestBody": {"content": {"application/json":
      {"schema": {"$ref": "#/components/schemas/Policy"}}}},
    "responses": {"200": {"description": "From now on", "content": {"application/json":
      {"schema": {"$ref": "#/components/schemas/Policy"}}}}}})";
constexpr const char* kNetwork =
    R"({"parameters": [
      {"name": "from", "in": "query", "schema": {"type": "integer"},
       "description": "The byte to begin at: next of the answer before"},
      {"name": "wait_s", "in": "query", "schema": {"type": "integer", "maximum": 60},
       "description": "Answer when there is a line, or after this time"}],
    "responses": {"200": {"description": "The lines", "content": {"application/json": {"schema":
      {"type": "object", "properties": {"lines": {"type": "array", "items": {"type": "string"}},
       "next": {"type": "integer"}, "running": {"type": "boolean"}}}}}}}})";
constexpr const char* kNone = "{}";
constexpr const char* kAbsent = "Not supported yet";

constexpr Route kRoutes[] = {
    {{"GET", "/healthz", "The server runs, and its database answers", kOpen}, health},
    {{"GET", "/openapi.json", "This document", kOpen}, describe},
    {{"GET", "/api/v3/sandboxes/create", "WebSocket: make a sandbox and speak JSON-RPC with it",
      kCreate},
     upgrade},
    {{"GET", "/api/v3/sandbox/{id}/connect", "WebSocket: speak JSON-RPC with a sandbox that runs",
      kConnect},
     upgrade},
    {{"DELETE", "/api/v3/sandbox/{id}", "End a sandbox; answers when it is gone", kGone},
     end_sandbox},
    {{"PATCH", "/api/v3/sandbox/{id}",
      "Move its deadline; the answer has the new one, which may be earlier", kDeadline},
     extend_sandbox},
    {{"POST", "/api/v3/sandbox/{id}/fork",
      "Make sandboxes that go on where it is now; answers when they serve", kFork},
     fork_sandbox},
    {{"POST", "/api/v3/sandbox/{id}/pause", "Let it stand still, with all that runs in it",
      kPaused},
     set_paused},
    {{"POST", "/api/v3/sandbox/{id}/resume", "Let one that stands still go on", kPaused},
     set_paused},
    {{"POST", "/api/v3/sandbox/{id}/snapshot",
      "Save it, with all that runs in it, to go on with later; it goes on", kTake},
     take_snapshot},
    {{"GET", "/api/v3/snapshots", "The organisation's snapshots, the newest first", kSnapshots},
     list_snapshots},
    {{"GET", "/api/v3/snapshots/{slug}", "One of them, by id or name", kSnapshot}, show_snapshot},
    {{"DELETE", "/api/v3/snapshots/{slug}", "Delete it; sandboxes that began with it go on", kGone},
     delete_snapshot},
    {{"POST", "/api/v3/snapshots/{slug}/restore",
      "Make sandboxes that go on where it is; answers when they serve", kFork},
     restore_snapshot},
    {{"POST", "/api/v3/templates",
      "Save a machine of this size, which the next sandboxes of it are forked from", kTemplate},
     build_template},
    {{"GET", "/api/v3/sandbox/{id}/policy", "Which hosts it may reach", kPolicy}, show_policy},
    {{"PUT", "/api/v3/sandbox/{id}/policy",
      "Which hosts it may reach from now on; what is not allowed any more is cut", kSetPolicy},
     set_policy},
    {{"GET", "/api/v3/sandbox/{id}/network",
      "What it asked of its network, and what was decided: lines of its event log", kNetwork},
     show_network},
    {{"POST", "/api/v3/sandbox/{id}/expose/http", "Publish a port: not supported yet", kNone},
     expose},
    {{"POST", "/api/v3/sandbox/{id}/expose/ssh", "Publish SSH: not supported yet", kNone}, expose},
    {{"POST", "/api/v3/sandbox/{id}/expose/vscode", "Publish an editor: not supported yet", kNone},
     expose},
    {{"GET", "/api/v2/sandboxes", "The organisation's sandboxes, the newest first, ended ones too",
      kList},
     list_sandboxes},
    // Another client has these two here.
    {{"GET", "/api/v3/sandboxes", "As /api/v2/sandboxes", kList}, list_sandboxes},
    {{"DELETE", "/api/v3/sandboxes/{id}", "As /api/v3/sandbox/{id}", kGone}, end_sandbox},
    {{"POST", "/api/v2/sandboxes/{id}/deploy", "Deploy a sandbox: not supported", kNone}, deploy},
    {{"GET", "/api/v2/volumes", kAbsent, kNone}, absent},
    {{"POST", "/api/v2/volumes", kAbsent, kNone}, absent},
    {{"GET", "/api/v2/volumes/{slug}", kAbsent, kNone}, absent},
    {{"DELETE", "/api/v2/volumes/{slug}", kAbsent, kNone}, absent},
    {{"POST", "/api/v2/volumes/{slug}/snapshot", kAbsent, kNone}, absent},
    {{"GET", "/api/v2/snapshots", kAbsent, kNone}, absent},
    {{"GET", "/api/v2/snapshots/{slug}", kAbsent, kNone}, absent},
    {{"DELETE", "/api/v2/snapshots/{slug}", kAbsent, kNone}, absent},
    {{"GET", "/api/v2/apps", kAbsent, kNone}, absent},
    {{"POST", "/api/v2/apps", kAbsent, kNone}, absent},
    {{"GET", "/api/v2/apps/{slug}", kAbsent, kNone}, absent},
    {{"PATCH", "/api/v2/apps/{slug}", kAbsent, kNone}, absent},
    {{"DELETE", "/api/v2/apps/{slug}", kAbsent, kNone}, absent},
    {{"POST", "/api/v2/apps/{slug}/deploy", kAbsent, kNone}, absent},
    {{"GET", "/api/v2/apps/{slug}/logs", kAbsent, kNone}, absent},
    {{"GET", "/api/v2/apps/{slug}/revisions", kAbsent, kNone}, absent},
    {{"GET", "/api/v2/apps/{slug}/timelines", kAbsent, kNone}, absent},
    {{"GET", "/api/v2/layers", kAbsent, kNone}, absent},
    {{"POST", "/api/v2/layers", kAbsent, kNone}, absent},
    {{"GET", "/api/v2/layers/{slug}", kAbsent, kNone}, absent},
    {{"PATCH", "/api/v2/layers/{slug}", kAbsent, kNone}, absent},
    {{"DELETE", "/api/v2/layers/{slug}", kAbsent, kNone}, absent},
    {{"GET", "/api/v2/layers/{slug}/apps", kAbsent, kNone}, absent},
    {{"GET", "/api/v2/revisions/{slug}", kAbsent, kNone}, absent},
    {{"DELETE", "/api/v2/revisions/{slug}", kAbsent, kNone}, absent},
    {{"POST", "/api/v2/revisions/{slug}/cancel", kAbsent, kNone}, absent},
    {{"GET", "/api/v2/revisions/{slug}/timelines", kAbsent, kNone}, absent},
    {{"GET", "/api/v2/revisions/{slug}/progress", kAbsent, kNone}, absent},
    {{"GET", "/api/v2/revisions/{slug}/build_logs", kAbsent, kNone}, absent},
};

// What {id} of a pattern stands for in a path, empty when it has none; nothing: it does not match.
std::optional<std::string> match(std::string_view pattern, const Words& path) {
  std::string id;
  size_t next = 0;
  bool matches = true;
  split(pattern, '/', [&](std::string_view word) {
    if (next >= path.size()) {
      matches = false;
    } else if (word == "{id}") {
      id = path[next];
    } else if (word != "{slug}") {
      matches = matches && word == path[next];
    }
    next++;
  });
  if (!matches || next != path.size()) return std::nullopt;
  return id;
}

// Of a path that has no route of this method.
[[noreturn]] void refuse_path(const Words& path) {
  std::string allowed;
  for (const Route& route : kRoutes)
    if (match(route.info.path, path))
      allowed += std::string(allowed.empty() ? "" : ", ") + route.info.method;
  if (!allowed.empty())
    throw Problem(405, "METHOD_NOT_ALLOWED", "there is no such method here", allowed);
  throw Problem(404, "NOT_FOUND", "there is no such route");
}

bool is_api(const Words& path) {
  return path.size() > 2 && path[0] == "api" && (path[1] == "v2" || path[1] == "v3");
}

void route_or_throw(Services services, const ApiRequest& request, Answer answer) {
  Target target = parse_target(request.target);
  Call call{services, request, target, "", ""};
  // Before anything else: who has no token learns nothing of what there is.
  if (is_api(target.path))
    call.organisation = authenticate(services.store, request.authorization, request.organisation);
  for (const Route& route : kRoutes) {
    if (request.method != route.info.method) continue;
    std::optional<std::string> id = match(route.info.path, target.path);
    if (!id) continue;
    call.id = *id;
    if (!call.id.empty() && !is_sandbox_id(call.id)) throw sandbox_not_found();
    return route.handler(call, std::move(answer));
  }
  refuse_path(target.path);
}

}  // namespace

std::string iso_time(int64_t ms) {
  time_t seconds = static_cast<time_t>(ms / 1000);
  tm parts{};
  ::gmtime_r(&seconds, &parts);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z", parts.tm_year + 1900,
                     parts.tm_mon + 1, parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec,
                     ms % 1000);
}

std::vector<RouteInfo> route_infos() {
  std::vector<RouteInfo> infos;
  for (const Route& route : kRoutes) infos.push_back(route.info);
  return infos;
}

ApiResponse problem_response(const Problem& problem) {
  ApiResponse response{problem.status(), problem.json()};
  // RFC 9110, sections 11.6.1, 10.2.1 and 7.8.
  if (response.status == 401) response.header = {"WWW-Authenticate", "Bearer"};
  if (response.status == 405) response.header = {"Allow", problem.allowed()};
  if (response.status == 426) response.header = {"Upgrade", "websocket"};
  return response;
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
