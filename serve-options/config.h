// What can be configured of the server (docs/control-plane.md): one table of keys, from which its
// TOML file, the flags, --help, the manual pages and the completion come.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <variant>

#include "artefacts/artefacts.h"

namespace hutch::serve_options {

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
  std::string layer = "layer";
  std::string default_egress = "none";
  std::string open_blocks;  // with commas between
  std::string dns_servers;
  bool ipv6 = false;
  int64_t network_log_mb = 64;
  int64_t cpus = 2;
  int64_t memory_default_mb = 1280;
  int64_t memory_min_mb = 256;
  int64_t memory_max_mb = 4096;
  int64_t max_sandboxes = 20;
  int64_t max_total_sandboxes = 100;
  int64_t max_total_memory_mb = 0;
  int64_t max_starting = 0;
  int64_t max_snapshots = 20;
  bool no_templates = false;
  int64_t shells = 4;
  int64_t disk_reserve_mb = 256;
  int64_t max_lifetime_s = 1800;
  int64_t max_connections = 1024;
  int64_t client_timeout_s = 120;
  int64_t boot_timeout_s = artefacts::boot_timeout_s();
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

// "--max-sandboxes" of "max_sandboxes".
std::string flag_name(std::string_view key);

}  // namespace hutch::serve_options
