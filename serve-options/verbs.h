// The verbs `serve`, `env`, `token`, `policy`, `net`, `fork`, `pause`, `resume`, `snapshot`,
// `restore`, `snapshots` and `template` as a command line: what they can be asked. The program
// hutch-serve does them; hutch, which runs it, shows them in its help, manual pages and completion.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "serve-options/config.h"

namespace hutch::serve_options {

// What a command line says of the configuration.
struct ConfigFlags {
  std::string file;  // --config; empty: the default one
  std::vector<std::function<void(Config&)>> changes;
};

// What the flags set is in the other members once the command line has been read. The verbs keep
// those alive.
struct ServeArguments {
  ConfigFlags config;
  bool print_address = false;
};
struct ServeVerb {
  CLI::App* app;
  std::shared_ptr<ServeArguments> arguments;
};
ServeVerb add_serve(CLI::App& parent);

struct EnvVerb {
  CLI::App* app;
  std::shared_ptr<ConfigFlags> config;
};
EnvVerb add_env(CLI::App& parent);

struct TokenArguments {
  ConfigFlags config;
  // create
  bool personal = false;
  std::string name;
  std::vector<std::string> organisations;
  std::string expires;
  // list
  bool json = false;
  // revoke
  int64_t id = 0;
};
struct TokenVerb {
  CLI::App *app, *create, *list, *revoke;
  std::shared_ptr<TokenArguments> arguments;
};
TokenVerb add_token(CLI::App& parent);

struct NetworkArguments {
  ConfigFlags config;
  std::string id;  // of a sandbox; of `net verify` a file's path, too
  std::vector<std::string> hosts;
  bool json = false;
  bool no_follow = false;
};
struct NetworkVerbs {
  CLI::App *policy, *show, *set;  // show and set are verbs of policy
  CLI::App *net, *verify;         // verify is one of net, which does something by itself, too
  std::shared_ptr<NetworkArguments> arguments;
};
NetworkVerbs add_network(CLI::App& parent);

struct LifeArguments {
  ConfigFlags config;
  std::string id;  // of a sandbox; of restore and snapshots delete, of a snapshot, or its name
  int64_t count = 1;
  std::string timeout = "1h";
  std::string name;        // of a snapshot
  int64_t memory_mib = 0;  // 0: what the server gives who does not say
  bool network = false;
  bool json = false;
};
struct LifeVerbs {
  CLI::App *fork, *pause, *resume, *snapshot, *restore;
  CLI::App *snapshots, *list, *remove;  // list and remove are verbs of snapshots
  CLI::App *templates, *build;          // build is a verb of template
  std::shared_ptr<LifeArguments> arguments;
};
LifeVerbs add_life(CLI::App& parent);

}  // namespace hutch::serve_options
