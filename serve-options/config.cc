#include "serve-options/config.h"

#include <algorithm>
#include <array>
#include <cstdlib>

namespace hutch::serve_options {
namespace {

constexpr int64_t kNone = 0;
constexpr std::array kKeys = {
    ConfigKey{"listen", &Config::listen, kNone, kNone, "ADDRESS", "IP address to listen on"},
    ConfigKey{"port", &Config::port, 1, 65535, "PORT", "TCP port to listen on"},
    ConfigKey{"public_url", &Config::public_url, kNone, kNone, "URL",
              "Where clients find this server, when a proxy stands before it"},
    ConfigKey{"tls_cert", &Config::tls_cert, kNone, kNone, "FILE",
              "Serve TLS with this certificate chain, in PEM"},
    ConfigKey{"tls_key", &Config::tls_key, kNone, kNone, "FILE", "The key of --tls-cert, in PEM"},
    ConfigKey{"tls_self_made", &Config::tls_self_made, kNone, kNone, "",
              "Serve TLS with a certificate made here, by an authority that the printed variables "
              "make clients trust"},
    ConfigKey{"data_folder", &Config::data_folder, kNone, kNone, "DIR",
              "Where the server keeps its state (default ~/.local/share/hutch)"},
    ConfigKey{"region", &Config::region, kNone, kNone, "CODE",
              "Three letters that stand in the ids of sandboxes"},
    ConfigKey{"image", &Config::image, kNone, kNone, "NAME|FILE",
              "Root file system of sandboxes: core, min, or an EROFS file"},
    ConfigKey{"layer", &Config::layer, kNone, kNone, "NAME|FILE",
              "Template of a sandbox's disk, ext4; its size is the most that a sandbox can write"},
    ConfigKey{"default_egress", &Config::default_egress, kNone, kNone, "POLICY",
              "What a sandbox may reach whose creator does not say: none or all"},
    ConfigKey{"open_blocks", &Config::open_blocks, kNone, kNone, "BLOCK,...",
              "Blocks of private addresses, such as 10.1.0.0/16, in which hosts may lie that a "
              "sandbox may reach; without it only those of the open Internet"},
    ConfigKey{"dns_servers", &Config::dns_servers, kNone, kNone, "ADDRESS,...",
              "DNS servers to ask instead of the host's, each with or without :port"},
    ConfigKey{"ipv6", &Config::ipv6, kNone, kNone, "",
              "Let sandboxes reach hosts over IPv6, too; this host must have it"},
    ConfigKey{"network_log_mb", &Config::network_log_mb, 1, 1 << 20, "MIB",
              "Longest log of what a sandbox asked of its network; at its end that network ends"},
    ConfigKey{"cpus", &Config::cpus, 1, 16, "N", "CPUs of a sandbox"},
    ConfigKey{"memory_default_mb", &Config::memory_default_mb, 128, 65536, "MIB",
              "Memory of a sandbox whose creator does not say"},
    ConfigKey{"memory_min_mb", &Config::memory_min_mb, 128, 65536, "MIB",
              "Least memory that a sandbox may have"},
    ConfigKey{"memory_max_mb", &Config::memory_max_mb, 128, 65536, "MIB",
              "Most memory that a sandbox may have"},
    ConfigKey{"max_sandboxes", &Config::max_sandboxes, 1, 100000, "N",
              "Sandboxes that an organisation may have at a time"},
    ConfigKey{"max_total_sandboxes", &Config::max_total_sandboxes, 1, 100000, "N",
              "Sandboxes that all organisations may have at a time"},
    ConfigKey{"max_total_memory_mb", &Config::max_total_memory_mb, 0, 1 << 30, "MIB",
              "Memory that all sandboxes may have at a time; 0 is no limit"},
    ConfigKey{"max_starting", &Config::max_starting, 0, 100000, "N",
              "Sandboxes that boot at the same time, others wait; 0 is the number of CPUs"},
    ConfigKey{"max_snapshots", &Config::max_snapshots, 0, 100000, "N",
              "Snapshots that an organisation may have at a time"},
    ConfigKey{"no_templates", &Config::no_templates, kNone, kNone, "",
              "Boot each sandbox instead of forking it from a saved one of its size"},
    ConfigKey{"shells", &Config::shells, 0, 1000, "N",
              "Processes with an empty VM that are kept ready for sandboxes to come"},
    ConfigKey{"disk_reserve_mb", &Config::disk_reserve_mb, 0, 1 << 30, "MIB",
              "Start no sandbox with less free space where disks of sandboxes lie"},
    ConfigKey{"max_lifetime_s", &Config::max_lifetime_s, 1, 31536000, "SECONDS",
              "Longest time from now that a sandbox's deadline may lie ahead"},
    ConfigKey{"max_connections", &Config::max_connections, 1, 100000, "N", "Connections at a time"},
    ConfigKey{"client_timeout_s", &Config::client_timeout_s, 1, 3600, "SECONDS",
              "Give a client up that is silent, pings included, for this time"},
    ConfigKey{"boot_timeout_s", &Config::boot_timeout_s, 1, 3600, "SECONDS",
              "Give a sandbox up that does not answer after this time"},
};

}  // namespace

std::span<const ConfigKey> config_keys() {
  return kKeys;
}

std::string flag_name(std::string_view key) {
  std::string name = "--" + std::string(key);
  std::replace(name.begin(), name.end(), '_', '-');
  return name;
}

}  // namespace hutch::serve_options
