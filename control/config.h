// The server's configuration: one TOML file, each key also a flag (`max_sandboxes` is
// --max-sandboxes). One table describes them all, for both.
#pragma once

#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <variant>

namespace hutch::control {

struct Config {
  std::string listen = "127.0.0.1";
  int64_t port = 7777;
  std::string public_url;
  std::string tls_cert;
  std::string tls_key;
  bool tls_self_made = false;
  std::string data_folder;
  std::string region = "loc";
  std::string image = "core";
  int64_t cpus = 2;
  int64_t memory_default_mb = 1280;
  int64_t memory_min_mb = 256;
  int64_t memory_max_mb = 4096;
  int64_t max_sandboxes = 20;
  int64_t max_lifetime_s = 1800;
  int64_t max_connections = 1024;
  int64_t boot_timeout_s = 60;
};

// A key of the file.
struct ConfigKey {
  std::string_view name;
  std::variant<std::string Config::*, int64_t Config::*, bool Config::*> member;
  int64_t low, high;        // of numbers
  const char* value_name;   // in --help; of switches, none
  const char* description;  // without its default
};
std::span<const ConfigKey> config_keys();

// What is wrong with a configuration, in one sentence that names the key.
class ConfigError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Sets the keys of a TOML document. Throws a ConfigError for a key that is not known, a value of
// another type or out of its range. `source` names the document in messages.
void apply_toml(Config& config, std::string_view text, std::string_view source);
// Checks what the keys say together, and fills in the data folder when it is empty
// (${XDG_DATA_HOME:-~/.local/share}/hutch).
void finish_config(Config& config);
// It serves TLS.
bool uses_tls(const Config& config);
// Where clients find the server: public_url, or what listen, port and TLS make.
std::string base_url(const Config& config);

}  // namespace hutch::control
