#include "control/problem.h"

#include <nlohmann/json.hpp>

namespace hutch::control {

std::string Problem::json() const {
  nlohmann::ordered_json body{{"code", code_}, {"message", message_}};
  return body.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

Problem no_network() {
  return Problem(409, "NO_NETWORK",
                 "the sandbox was made without a network; make it with allow_net, [] included");
}

Problem sandbox_not_found() {
  return Problem(404, "SANDBOX_NOT_FOUND", "there is no sandbox of this id");
}

}  // namespace hutch::control
