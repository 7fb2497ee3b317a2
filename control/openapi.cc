#include "control/openapi.h"

namespace hutch::control {
namespace {

constexpr std::string_view kDocument = R"json({
  "openapi": "3.1.0",
  "info": {"title": "hutch serve", "version": ")json" HUTCH_VERSION R"json(",
    "description": "Sandboxes for the client @deno/sandbox. Every error is {code, message}."},
  "security": [{"token": []}],
  "components": {
    "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
    "parameters": {"id": {"name": "id", "in": "path", "required": true,
      "schema": {"type": "string", "pattern": "^sbx_([a-z]{3})_[0-9a-hjkmnp-z]{20}$"}}},
    "schemas": {
      "Problem": {"type": "object", "required": ["code", "message"],
        "properties": {"code": {"type": "string"}, "message": {"type": "string"}}},
      "Deadline": {"type": "object", "required": ["stop_at_ms"],
        "properties": {"stop_at_ms": {"type": "integer",
          "description": "Milliseconds since 1970"}}},
      "Sandbox": {"type": "object",
        "required": ["id", "createdAt", "stoppedAt", "region", "status", "labels"],
        "properties": {"id": {"type": "string"},
          "createdAt": {"type": "string", "format": "date-time"},
          "stoppedAt": {"type": ["string", "null"], "format": "date-time"},
          "region": {"type": "string"},
          "status": {"enum": ["running", "stopped"]},
          "labels": {"type": "object", "additionalProperties": {"type": "string"}}}}
    },
    "responses": {"Problem": {"description": "Refused",
      "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}}}
  },
  "paths": {
    "/api/v3/sandboxes/create": {"get": {
      "summary": "WebSocket: make a sandbox and speak JSON-RPC with it",
      "parameters": [{"name": "x-deno-sandbox-config", "in": "header",
        "schema": {"type": "string"}, "description": "JSON in base64"}],
      "responses": {"101": {"description": "It serves; x-deno-sandbox-id is its id"},
        "default": {"$ref": "#/components/responses/Problem"}}}},
    "/api/v3/sandbox/{id}/connect": {"get": {
      "summary": "WebSocket: speak JSON-RPC with a sandbox that runs",
      "parameters": [{"$ref": "#/components/parameters/id"}],
      "responses": {"101": {"description": "Connected; x-deno-sandbox-id is its id"},
        "default": {"$ref": "#/components/responses/Problem"}}}},
    "/api/v3/sandbox/{id}": {
      "parameters": [{"$ref": "#/components/parameters/id"}],
      "delete": {"summary": "End a sandbox; answers when it is gone",
        "responses": {"200": {"description": "Gone"},
          "default": {"$ref": "#/components/responses/Problem"}}},
      "patch": {"summary": "Move its deadline; the answer has the new one, which may be earlier",
        "requestBody": {"content": {"application/json":
          {"schema": {"$ref": "#/components/schemas/Deadline"}}}},
        "responses": {"200": {"description": "Moved", "content": {"application/json":
            {"schema": {"$ref": "#/components/schemas/Deadline"}}}},
          "default": {"$ref": "#/components/responses/Problem"}}}},
    "/api/v3/sandbox/{id}/expose/{what}": {"post": {
      "summary": "Publish HTTP, SSH or an editor: not supported yet",
      "parameters": [{"$ref": "#/components/parameters/id"},
        {"name": "what", "in": "path", "required": true,
          "schema": {"enum": ["http", "ssh", "vscode"]}}],
      "responses": {"default": {"$ref": "#/components/responses/Problem"}}}},
    "/api/v2/sandboxes": {"get": {
      "summary": "The organisation's sandboxes, the newest first, ended ones too",
      "parameters": [{"name": "labels", "in": "query", "style": "deepObject", "explode": true,
        "schema": {"type": "object", "additionalProperties": {"type": "string"}}}],
      "responses": {"200": {"description": "The list", "content": {"application/json": {"schema":
          {"type": "array", "items": {"$ref": "#/components/schemas/Sandbox"}}}}},
        "default": {"$ref": "#/components/responses/Problem"}}}},
    "/healthz": {"get": {"summary": "The server runs", "security": [],
      "responses": {"200": {"description": "It does"}}}},
    "/openapi.json": {"get": {"summary": "This document", "security": [],
      "responses": {"200": {"description": "The document"}}}}
  }
}
)json";

}  // namespace

std::string_view openapi_document() {
  return kDocument;
}

}  // namespace hutch::control
