// ApiClient: asks a server's REST routes, for verbs that are its clients.
//
// It waits for each answer. The server is the one that the environment names (DENO_SANDBOX_ENDPOINT
// and DENO_DEPLOY_TOKEN, as `hutch env` sets them), or the one of a data folder.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace hutch::control {

struct Endpoint {
  bool tls = false;
  std::string host;  // without brackets
  std::string port;
  std::string token;
  std::string authority;  // a file of certificates to trust; empty: the host's
};

// Of the environment; what it does not say is taken from the block of variables that a server left
// in `data_folder`. Throws std::runtime_error with what mends it.
Endpoint find_endpoint(const std::string& data_folder);
// Of an http or https URL without a path, whose port may be missing. Throws std::runtime_error.
Endpoint parse_endpoint(const std::string& url);

// The path of a part of a sandbox or snapshot; throws std::runtime_error when `id` is none.
std::string sandbox_path(const std::string& id, const char* what);
std::string snapshot_path(const std::string& id, const char* what);

class ApiClient {
 public:
  explicit ApiClient(Endpoint endpoint) : endpoint_(std::move(endpoint)) {}
  // The body of the answer. Throws std::runtime_error: the server is not there, or what it says is
  // wrong.
  nlohmann::json get(const std::string& target) const { return ask("GET", target, ""); }
  nlohmann::json put(const std::string& target, const nlohmann::json& body) const {
    return ask("PUT", target, body.dump());
  }
  nlohmann::json post(const std::string& target, const nlohmann::json& body) const {
    return ask("POST", target, body.dump());
  }
  nlohmann::json remove(const std::string& target) const { return ask("DELETE", target, ""); }

 private:
  nlohmann::json ask(const std::string& method, const std::string& target,
                     const std::string& body) const;

  Endpoint endpoint_;
};

}  // namespace hutch::control
