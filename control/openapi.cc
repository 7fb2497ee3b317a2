#include "control/openapi.h"

#include <nlohmann/json.hpp>

namespace hutch::control {
namespace {

// All but the paths.
constexpr const char* kDocument = R"json({
  "openapi": "3.1.0",
  "info": {"title": "hutch serve", "version": ")json" HUTCH_VERSION R"json(",
    "description": "Sandboxes for the client @deno/sandbox. Every error is {code, message}."},
  "security": [{"token": []}],
  "components": {
    "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
    "parameters": {
      "id": {"name": "id", "in": "path", "required": true,
        "schema": {"type": "string", "pattern": "^sbx_([a-z]{3})_[0-9a-hjkmnp-z]{20}$"}},
      "slug": {"name": "slug", "in": "path", "required": true, "schema": {"type": "string"}}
    },
    "schemas": {
      "Problem": {"type": "object", "required": ["code", "message"],
        "properties": {"code": {"type": "string"}, "message": {"type": "string"}}},
      "Deadline": {"type": "object", "required": ["stop_at_ms"],
        "properties": {"stop_at_ms": {"type": "integer",
          "description": "Milliseconds since 1970"}}},
      "Policy": {"type": "object",
        "properties": {"allow_all": {"type": "boolean"},
          "allow_net": {"type": "array", "items": {"type": "string"}}}},
      "Snapshot": {"type": "object",
        "required": ["id", "name", "sandbox", "createdAt", "memory_mb", "cpus", "allow_net"],
        "properties": {"id": {"type": "string"}, "name": {"type": "string"},
          "sandbox": {"type": "string"},
          "createdAt": {"type": "string", "format": "date-time"},
          "memory_mb": {"type": "integer"}, "cpus": {"type": "integer"},
          "allow_net": {"type": ["array", "string", "null"],
            "description": "Hosts; all; or null: it has no network"}}},
      "Sandbox": {"type": "object",
        "required": ["id", "createdAt", "stoppedAt", "region", "status", "labels"],
        "properties": {"id": {"type": "string"},
          "createdAt": {"type": "string", "format": "date-time"},
          "stoppedAt": {"type": ["string", "null"], "format": "date-time"},
          "region": {"type": "string"},
          "status": {"enum": ["running", "stopped"]},
          "path": {"enum": ["boot", "fork", "restore", null],
            "description": "How it came to be; null: it does not serve"},
          "process": {"enum": ["pool", "new", null],
            "description": "Whether its VMM had been kept ready; null: it does not serve"},
          "labels": {"type": "object", "additionalProperties": {"type": "string"}}}}
    },
    "responses": {"Problem": {"description": "Refused",
      "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}}}
  },
  "paths": {}
})json";

}  // namespace

std::string openapi_document(const std::vector<RouteInfo>& routes) {
  using nlohmann::ordered_json;
  ordered_json document = ordered_json::parse(kDocument);
  for (const RouteInfo& route : routes) {
    std::string path = route.path, method = route.method;
    for (char& c : method) c = static_cast<char>(c | 0x20);
    ordered_json& item = document["paths"][path];
    for (const char* name : {"id", "slug"})
      if (path.find("{" + std::string(name) + "}") != std::string::npos)
        item["parameters"] = {{{"$ref", "#/components/parameters/" + std::string(name)}}};
    ordered_json& operation = item[method];
    operation["summary"] = route.summary;
    operation.update(ordered_json::parse(route.details));
    operation["responses"]["default"] = {{"$ref", "#/components/responses/Problem"}};
  }
  return document.dump(2);
}

}  // namespace hutch::control
