// The request header x-deno-sandbox-config: what a client asks of a new sandbox, as JSON in base64.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "control/config.h"
#include "policy/policy.h"

namespace hutch::control {

using Labels = std::map<std::string, std::string>;

struct SandboxConfig {
  int64_t memory_mb = 0;
  bool has_memory = false, has_egress = false;  // they were asked for
  std::string fork_of;                          // a sandbox's id; empty: it is no fork
  std::string snapshot;                         // id or name; empty: it begins with none
  std::optional<int64_t> stop_at_ms;  // wall clock of the client; none: ends with its creator
  Labels labels;
  // Which hosts it may reach; none: it has no network at all, and never will.
  std::optional<policy::Policy> egress;
};

// The policy of allow_net, a JSON array of patterns. Throws a Problem.
policy::Policy parse_allow_net(const nlohmann::json& value);

// Throws a Problem that names the member at fault; unknown members are ignored. `header` is the
// client's; an empty one asks for the defaults.
SandboxConfig parse_sandbox_config(std::string_view header, const Config& config);

// Throws a Problem when the server gives no sandbox this much.
void check_memory(int64_t mib, const Config& config);

// At most 5 labels, keys of at most 64 and values of at most 128 bytes; throws a Problem.
void check_labels(const Labels& labels);

}  // namespace hutch::control
