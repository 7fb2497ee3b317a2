// The REST routes: what a request asks for, and the answer. No sockets here.
//
// /api/v3 is the sandbox host of the protocol, /api/v2 its API host; their paths do not overlap.
// Volumes, their snapshots, apps, layers and revisions answer 501 NOT_SUPPORTED; the snapshots of
// /api/v3 are machines.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "control/config.h"
#include "control/network_log.h"
#include "control/openapi.h"
#include "control/sandboxes.h"
#include "control/store.h"

namespace hutch::control {

struct Services {
  const Config& config;
  Store& store;
  Sandboxes& sandboxes;
  Snapshots& snapshots;
  Templates& templates;
  const NetworkLogs& logs;
};

struct ApiRequest {
  std::string method;  // GET, ...
  std::string target;  // path and query, as sent
  std::string authorization;
  std::string organisation;  // X-Deno-Org
  std::string body;
};

struct ApiResponse {
  int status = 200;
  std::string body;  // JSON; empty with 204
  // The one that RFC 9110 demands beside some statuses: name and value.
  std::pair<std::string, std::string> header = {};
};

// Calls `answer` once, perhaps later.
void route(Services services, const ApiRequest& request, std::function<void(ApiResponse)> answer);

// All routes there are, those of WebSockets too.
std::vector<RouteInfo> route_infos();

// What a WebSocket request asks for: a new sandbox (an empty id) or the one of that id. Throws a
// Problem when it is no such path.
struct UpgradeTarget {
  std::string sandbox_id;
};
UpgradeTarget upgrade_target(const std::string& target);

ApiResponse problem_response(const Problem& problem);

}  // namespace hutch::control
