// The configuration's keys as flags of a verb.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "control/config.h"

namespace hutch::control {

// What the command line said of the configuration.
class ConfigOptions {
 public:
  // Adds --config and, of the keys, all or only --data-folder.
  static std::shared_ptr<ConfigOptions> add(CLI::App& verb, bool all);
  // The file's keys, then the flags'. Throws a ConfigError.
  Config load() const;

 private:
  std::string file_;
  std::vector<std::function<void(Config&)>> flags_;
};

}  // namespace hutch::control
