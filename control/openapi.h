// The server's description of itself: OpenAPI 3.1, made from the routes.
#pragma once

#include <string>
#include <vector>

namespace hutch::control {

struct RouteInfo {
  const char* method;
  const char* path;  // with {id} of a sandbox, and {slug} of anything else
  const char* summary;
  const char* details;  // members of its OpenAPI operation, a JSON object
};

std::string openapi_document(const std::vector<RouteInfo>& routes);

}  // namespace hutch::control
