#include "control/sandbox_config.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "control/ids.h"
#include "control/problem.h"
#include "control/snapshots.h"

namespace hutch::control {
namespace {

using nlohmann::json;

// What the client says when nobody asks it for a size.
constexpr int64_t kClientMemory = 1280;  // MiB
// What the root's volume says of a fork, before the id of a sandbox that runs.
constexpr std::string_view kFork = "fork:";
constexpr size_t kMaxLabels = 5, kMaxLabelKey = 64, kMaxLabelValue = 128;

[[noreturn]] void refuse(const std::string& text) {
  throw Problem(400, "INVALID_SANDBOX_CONFIG", text);
}

[[noreturn]] void not_supported(const std::string& text) {
  throw Problem(501, "NOT_SUPPORTED", text);
}

int base64_value(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  return c == '+' ? 62 : c == '/' ? 63 : -1;
}

std::optional<std::string> decode_base64(std::string_view text) {
  while (text.ends_with('=')) text.remove_suffix(1);
  std::string bytes;
  uint32_t bits = 0;
  int count = 0;
  for (char c : text) {
    int value = base64_value(c);
    if (value < 0) return std::nullopt;
    bits = (bits << 6 | static_cast<uint32_t>(value)) & 0xffffff;
    count += 6;
    if (count < 8) continue;
    count -= 8;
    bytes += static_cast<char>(bits >> count & 0xff);
  }
  return bytes;
}

// The client sends each character up to U+00FF as one byte; other clients send UTF-8.
std::string from_latin1(std::string_view bytes) {
  std::string text;
  for (char c : bytes) {
    auto byte = static_cast<unsigned char>(c);
    if (byte < 0x80) {
      text += c;
    } else {
      text += static_cast<char>(0xc0 | byte >> 6);
      text += static_cast<char>(0x80 | (byte & 0x3f));
    }
  }
  return text;
}

json parse(std::string_view header) {
  std::optional<std::string> bytes = decode_base64(header);
  if (!bytes) refuse("the header x-deno-sandbox-config is not base64");
  json value = json::parse(*bytes, nullptr, false);
  if (value.is_discarded()) value = json::parse(from_latin1(*bytes), nullptr, false);
  if (!value.is_object()) refuse("the header x-deno-sandbox-config holds no JSON object");
  return value;
}

const json* member(const json& object, const char* name) {
  auto found = object.find(name);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

Labels parse_labels(const json& value) {
  if (!value.is_object()) refuse("labels wants an object of texts");
  Labels labels;
  for (const auto& [key, text] : value.items()) {
    if (!text.is_string()) refuse("labels wants an object of texts");
    labels[key] = text.get<std::string>();
  }
  check_labels(labels);
  return labels;
}

}  // namespace

policy::Policy parse_allow_net(const json& value) {
  if (!value.is_array()) refuse("allow_net wants an array of hosts");
  std::vector<std::string> hosts;
  for (const json& host : value) {
    if (!host.is_string()) refuse("allow_net wants an array of hosts");
    hosts.push_back(host.get<std::string>());
  }
  Result<policy::Policy> policy = policy::Policy::parse(hosts);
  if (!policy)
    throw Problem(400, "INVALID_ALLOW_NET", fmt::format("allow_net: {}", policy.error().text()));
  return *std::move(policy);
}

void check_memory(int64_t mib, const Config& config) {
  if (mib < config.memory_min_mb || mib > config.memory_max_mb)
    throw Problem(400, "MEMORY_OUT_OF_RANGE",
                  fmt::format("memory_mb is {}; this server gives a sandbox {} to {} MiB", mib,
                              config.memory_min_mb, config.memory_max_mb));
}

void check_labels(const Labels& labels) {
  if (labels.size() > kMaxLabels)
    refuse(fmt::format("a sandbox has at most {} labels, not {}", kMaxLabels, labels.size()));
  for (const auto& [key, value] : labels) {
    if (key.empty() || key.size() > kMaxLabelKey)
      refuse(fmt::format("the key of a label has 1 to {} bytes", kMaxLabelKey));
    if (value.size() > kMaxLabelValue)
      refuse(fmt::format("the value of a label has at most {} bytes", kMaxLabelValue));
  }
}

SandboxConfig parse_sandbox_config(std::string_view header, const Config& config) {
  SandboxConfig result;
  result.memory_mb = config.memory_default_mb;
  if (config.default_egress == "all") result.egress = policy::Policy::all();
  if (header.empty()) return result;
  json value = parse(header);
  if (const json* memory = member(value, "memory_mb")) {
    if (!memory->is_number_integer()) refuse("memory_mb wants a whole number of MiB");
    // A number above the signed range would read as a negative one, which is refused as well.
    result.memory_mb = memory->get<int64_t>();
    result.has_memory = result.memory_mb != kClientMemory;
    check_memory(result.memory_mb, config);
  }
  if (const json* stop = member(value, "stop_at_ms")) {
    if (!stop->is_number_integer()) refuse("stop_at_ms wants milliseconds since 1970");
    result.stop_at_ms = stop->get<int64_t>();
  }
  if (const json* labels = member(value, "labels")) result.labels = parse_labels(*labels);
  if (const json* volumes = member(value, "volumes")) {
    if (!volumes->is_array() && !volumes->is_object()) refuse("volumes wants an array or object");
    if (!volumes->empty()) not_supported("this server has no volumes yet");
  }
  if (const json* root = member(value, "root")) {
    const json* volume = root->is_object() ? member(*root, "volume") : nullptr;
    if (volume == nullptr || !volume->is_string()) refuse("root wants an object with a volume");
    const auto& text = volume->get_ref<const std::string&>();
    if (text.starts_with(kFork)) {
      result.fork_of = text.substr(kFork.size());
      if (!is_sandbox_id(result.fork_of)) refuse("root wants fork: and the id of a sandbox");
    } else {
      result.snapshot = text;
      if (!is_snapshot_id(text) && !is_snapshot_name(text))
        refuse("root wants the id or name of a snapshot, or fork: and the id of a sandbox");
    }
  }
  if (const json* allow = member(value, "allow_net")) {
    result.egress = parse_allow_net(*allow);
    result.has_egress = true;
  }
  if (const json* secrets = member(value, "secrets")) {
    if (!secrets->is_object()) refuse("secrets wants an object");
    if (!secrets->empty()) not_supported("this server keeps no secrets out of sandboxes yet");
  }
  return result;
}

}  // namespace hutch::control
