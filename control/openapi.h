// The description of the REST routes (OpenAPI 3.1), served at /openapi.json.
#pragma once

#include <string_view>

namespace hutch::control {

std::string_view openapi_document();

}  // namespace hutch::control
