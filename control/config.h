// The server's configuration: defaults, one TOML file, and the flags, in this order.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

#include "serve-options/config.h"
#include "serve-options/verbs.h"

namespace hutch::control {

using serve_options::Config;
using serve_options::ConfigFlags;
using serve_options::ConfigKey;

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
// The file's keys, then the flags'; finished. Without --config, the file is
// ${XDG_CONFIG_HOME:-~/.config}/hutch/serve.toml when there is one. Throws a ConfigError.
Config load_config(const ConfigFlags& flags);
// It serves TLS.
bool uses_tls(const Config& config);
// Where clients find the server: public_url, or what listen, port and TLS make.
std::string base_url(const Config& config);

}  // namespace hutch::control
