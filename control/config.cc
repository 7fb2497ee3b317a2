#include "control/config.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <toml++/toml.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "base/sys.h"
#include "control/ids.h"

namespace hutch::control {
namespace {

constexpr size_t kMaxFile = 1 << 20;

[[noreturn]] void fail(std::string_view source, const std::string& text) {
  throw ConfigError(fmt::format("{}: {}", source, text));
}

void set_key(Config& config, const ConfigKey& key, const toml::node& node,
             std::string_view source) {
  if (const auto* text = std::get_if<std::string Config::*>(&key.member)) {
    if (!node.is_string()) fail(source, fmt::format("{} wants a text in quotes", key.name));
    config.*(*text) = **node.as_string();
    return;
  }
  if (const auto* on = std::get_if<bool Config::*>(&key.member)) {
    if (!node.is_boolean()) fail(source, fmt::format("{} wants true or false", key.name));
    config.*(*on) = **node.as_boolean();
    return;
  }
  if (!node.is_integer()) fail(source, fmt::format("{} wants a whole number", key.name));
  int64_t number = **node.as_integer();
  if (number < key.low || number > key.high)
    fail(source, fmt::format("{} is {}; it may be {} to {}", key.name, number, key.low, key.high));
  config.*std::get<int64_t Config::*>(key.member) = number;
}

bool is_address(const std::string& text) {
  unsigned char bytes[16];
  return ::inet_pton(AF_INET, text.c_str(), bytes) == 1 ||
         ::inet_pton(AF_INET6, text.c_str(), bytes) == 1;
}

std::string default_data_folder() {
  const char* data = std::getenv("XDG_DATA_HOME");
  if (data != nullptr && *data == '/') return std::string(data) + "/hutch";
  const char* home = std::getenv("HOME");
  if (home == nullptr || *home != '/')
    throw ConfigError("neither XDG_DATA_HOME nor HOME names a folder; use --data-folder DIR");
  return std::string(home) + "/.local/share/hutch";
}

// Read when it is there.
std::string default_file() {
  const char* folder = std::getenv("XDG_CONFIG_HOME");
  if (folder != nullptr && *folder == '/') return std::string(folder) + "/hutch/serve.toml";
  const char* home = std::getenv("HOME");
  return home == nullptr ? "" : std::string(home) + "/.config/hutch/serve.toml";
}

}  // namespace

void apply_toml(Config& config, std::string_view text, std::string_view source) {
  try {
    toml::table table = toml::parse(text, source);
    for (const auto& [name, node] : table) {
      bool known = false;
      for (const ConfigKey& key : serve_options::config_keys()) {
        if (key.name != name.str()) continue;
        set_key(config, key, node, source);
        known = true;
      }
      if (!known) fail(source, fmt::format("there is no key {}", name.str()));
    }
  } catch (const toml::parse_error& error) {
    fail(source, fmt::format("line {}: {}", error.source().begin.line, error.description()));
  }
}

void finish_config(Config& config) {
  if (!is_address(config.listen))
    throw ConfigError(
        fmt::format("listen is \"{}\"; it wants an IP address, such as 127.0.0.1", config.listen));
  if (!is_region(config.region))
    throw ConfigError(
        fmt::format("region is \"{}\"; it wants three lower-case letters", config.region));
  if (config.tls_cert.empty() != config.tls_key.empty())
    throw ConfigError("tls_cert and tls_key go together; give both or none");
  if (config.tls_self_made && !config.tls_cert.empty())
    throw ConfigError("tls_self_made and tls_cert exclude each other; give one of them");
  if (config.memory_min_mb > config.memory_default_mb ||
      config.memory_default_mb > config.memory_max_mb)
    throw ConfigError(fmt::format(
        "memory_min_mb ({}), memory_default_mb ({}) and memory_max_mb ({}) are not in this order",
        config.memory_min_mb, config.memory_default_mb, config.memory_max_mb));
  if (config.default_egress != "none" && config.default_egress != "all")
    throw ConfigError(
        fmt::format("default_egress is \"{}\"; it wants none or all", config.default_egress));
  std::string_view url = config.public_url;
  if (!url.empty() && ((!url.starts_with("http://") && !url.starts_with("https://")) ||
                       url.ends_with('/') || url.find('\'') != std::string_view::npos))
    throw ConfigError(
        "public_url wants http:// or https://, a host and no slash at the end, such as "
        "https://sandboxes.example.com");
  if (config.data_folder.empty()) config.data_folder = default_data_folder();
  // Clients in other folders get paths in it.
  config.data_folder = std::filesystem::absolute(config.data_folder).lexically_normal().string();
}

Config load_config(const ConfigFlags& flags) {
  Config config;
  std::string path = flags.file.empty() ? default_file() : flags.file;
  if (!flags.file.empty() || ::access(path.c_str(), F_OK) == 0) {
    Result<std::string> text = read_file(path, kMaxFile);
    if (!text) throw ConfigError(text.error().text());
    apply_toml(config, *text, path);
  }
  for (const auto& change : flags.changes) change(config);
  finish_config(config);
  return config;
}

bool uses_tls(const Config& config) {
  return config.tls_self_made || !config.tls_cert.empty();
}

std::string base_url(const Config& config) {
  if (!config.public_url.empty()) return config.public_url;
  std::string host = config.listen == "0.0.0.0" ? "127.0.0.1"
                     : config.listen == "::"    ? "::1"
                                                : config.listen;
  if (host.find(':') != std::string::npos) host = "[" + host + "]";
  return fmt::format("{}://{}:{}", uses_tls(config) ? "https" : "http", host, config.port);
}

}  // namespace hutch::control
