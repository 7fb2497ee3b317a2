#include "control/config_options.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "base/sys.h"

namespace hutch::control {
namespace {

constexpr size_t kMaxFile = 1 << 20;

// Read when it is there.
std::string default_file() {
  const char* folder = std::getenv("XDG_CONFIG_HOME");
  if (folder != nullptr && *folder == '/') return std::string(folder) + "/hutch/serve.toml";
  const char* home = std::getenv("HOME");
  return home == nullptr ? "" : std::string(home) + "/.config/hutch/serve.toml";
}

std::string flag_name(std::string_view key) {
  std::string name = "--" + std::string(key);
  std::replace(name.begin(), name.end(), '_', '-');
  return name;
}

std::string description(const ConfigKey& key) {
  Config defaults;
  if (const auto* text = std::get_if<std::string Config::*>(&key.member)) {
    const std::string& value = defaults.*(*text);
    return value.empty() ? key.description : fmt::format("{} (default {})", key.description, value);
  }
  if (std::holds_alternative<bool Config::*>(key.member)) return key.description;
  return fmt::format("{} (default {})", key.description,
                     defaults.*std::get<int64_t Config::*>(key.member));
}

}  // namespace

std::shared_ptr<ConfigOptions> ConfigOptions::add(CLI::App& verb, bool all) {
  auto options = std::make_shared<ConfigOptions>();
  verb.add_option("--config", options->file_,
                  "Read the configuration from this TOML file; its keys are the flags below, with "
                  "underscores (default ~/.config/hutch/serve.toml, if there is one)")
      ->type_name("FILE");
  for (const ConfigKey& key : config_keys()) {
    if (!all && key.name != "data_folder") continue;
    std::string name = flag_name(key.name);
    if (const auto* text = std::get_if<std::string Config::*>(&key.member)) {
      verb.add_option_function<std::string>(
              name,
              [options = options.get(), member = *text](const std::string& value) {
                options->flags_.push_back([=](Config& config) { config.*member = value; });
              },
              description(key))
          ->type_name(key.value_name);
    } else if (const auto* on = std::get_if<bool Config::*>(&key.member)) {
      verb.add_flag_callback(
          name,
          [options = options.get(), member = *on] {
            options->flags_.push_back([=](Config& config) { config.*member = true; });
          },
          description(key));
    } else {
      verb.add_option_function<int64_t>(
              name,
              [options = options.get(),
               member = std::get<int64_t Config::*>(key.member)](int64_t value) {
                options->flags_.push_back([=](Config& config) { config.*member = value; });
              },
              description(key))
          ->type_name(key.value_name)
          ->check(CLI::Range(key.low, key.high).description(""));
    }
  }
  return options;
}

Config ConfigOptions::load() const {
  Config config;
  std::string path = file_.empty() ? default_file() : file_;
  if (!file_.empty() || ::access(path.c_str(), F_OK) == 0) {
    Result<std::string> text = read_file(path, kMaxFile);
    if (!text) throw ConfigError(text.error().text());
    apply_toml(config, *text, path);
  }
  for (const auto& flag : flags_) flag(config);
  finish_config(config);
  return config;
}

}  // namespace hutch::control
