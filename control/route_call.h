// What the files of REST routes share: a request that matches a route, and how it is answered.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "control/routes.h"

namespace hutch::control {

using Answer = std::function<void(ApiResponse)>;

struct Target {
  std::vector<std::string> path;  // the parts between slashes, as sent
  std::vector<std::pair<std::string, std::string>> query;
};

// A request whose path matches a route.
struct Call {
  const Services& services;
  const ApiRequest& request;
  const Target& target;
  std::string organisation;  // in whose name; empty on routes without authentication
  std::string id;            // of the sandbox, where the path has one; checked
};
// Calls `answer` once, perhaps later, when nothing of `call` is there any more; or throws a
// Problem.
using Handler = void (*)(const Call& call, Answer answer);

inline ApiResponse json_response(const nlohmann::json& body) {
  return {200, body.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)};
}
// RFC 3339, of milliseconds since 1970.
std::string iso_time(int64_t ms);

// Of life_routes.cc.
void fork_sandbox(const Call& call, Answer answer);
void set_paused(const Call& call, Answer answer);
void take_snapshot(const Call& call, Answer answer);
void list_snapshots(const Call& call, Answer answer);
void show_snapshot(const Call& call, Answer answer);
void delete_snapshot(const Call& call, Answer answer);
void restore_snapshot(const Call& call, Answer answer);
void build_template(const Call& call, Answer answer);

}  // namespace hutch::control
