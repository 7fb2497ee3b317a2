#include "serve-options/verbs.h"

#include <fmt/format.h>

namespace hutch::serve_options {
namespace {

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

void add_flag(CLI::App& verb, ConfigFlags& flags, const ConfigKey& key) {
  std::string name = flag_name(key.name);
  auto set = [&flags](auto member) {
    return [&flags, member](const auto& value) {
      flags.changes.push_back([=](Config& config) { config.*member = value; });
    };
  };
  if (const auto* text = std::get_if<std::string Config::*>(&key.member)) {
    verb.add_option_function<std::string>(name, set(*text), description(key))
        ->type_name(key.value_name);
  } else if (const auto* on = std::get_if<bool Config::*>(&key.member)) {
    verb.add_flag_callback(
        name, [change = set(*on)] { change(true); }, description(key));
  } else {
    verb.add_option_function<int64_t>(name, set(std::get<int64_t Config::*>(key.member)),
                                      description(key))
        ->type_name(key.value_name)
        ->check(CLI::Range(key.low, key.high).description(""));
  }
}

// The verb's options write to what `arguments` points to: it lives as long as the verb.
void keep(CLI::App& verb, std::shared_ptr<void> arguments) {
  verb.preparse_callback([arguments = std::move(arguments)](size_t) {});
}

// --config and, of the keys, all or only --data-folder. `flags` must outlive the verb.
void add_config(CLI::App& verb, ConfigFlags& flags, bool all) {
  verb.add_option("--config", flags.file,
                  all ? "Read the configuration from this TOML file; its keys are the flags "
                        "below, with underscores (default ~/.config/hutch/serve.toml, if there is "
                        "one)"
                      : "The server's configuration (default ~/.config/hutch/serve.toml, if there "
                        "is one)")
      ->type_name("FILE");
  for (const ConfigKey& key : config_keys())
    if (all || key.name == "data_folder") add_flag(verb, flags, key);
}

}  // namespace

ServeVerb add_serve(CLI::App& parent) {
  ServeVerb verb{
      parent.add_subcommand(
          "serve", "Serve sandboxes to the client @deno/sandbox; prints the variables it needs"),
      std::make_shared<ServeArguments>()};
  keep(*verb.app, verb.arguments);
  add_config(*verb.app, verb.arguments->config, true);
  // For hutch, which forwards the port where the server runs in the emulated machine.
  verb.app
      ->add_flag("--print-address", verb.arguments->print_address,
                 "Print ADDRESS and PORT, and end")
      ->group("");
  verb.app->footer(
      "Examples:\n  hutch serve\n  hutch serve --tls-self-made --port 8443\n"
      "  hutch serve --tls-cert cert.pem --tls-key key.pem --listen 0.0.0.0\n"
      "  eval \"$(hutch env)\" && node main.mjs\n\n"
      "Prints the block of variables and then `ready` on standard output, and logs on standard "
      "error.\nSIGINT or SIGTERM ends all sandboxes and then the server.");
  return verb;
}

EnvVerb add_env(CLI::App& parent) {
  EnvVerb verb{parent.add_subcommand("env", "Print the variables that lead a client to the server"),
               std::make_shared<ConfigFlags>()};
  keep(*verb.app, verb.config);
  add_config(*verb.app, *verb.config, false);
  verb.app->footer("Examples:\n  hutch env\n  eval \"$(hutch env)\"");
  return verb;
}

TokenVerb add_token(CLI::App& parent) {
  TokenVerb verb{parent.add_subcommand("token", "Make, list and revoke access tokens"), nullptr,
                 nullptr, nullptr, std::make_shared<TokenArguments>()};
  TokenArguments& arguments = *verb.arguments;
  keep(*verb.app, verb.arguments);
  verb.app->require_subcommand(1);
  verb.app->footer(
      "Examples:\n  hutch token create --name ci --expires 30d\n  hutch token list\n"
      "  hutch token revoke 3");

  verb.create = verb.app->add_subcommand("create", "Make a token and print it");
  add_config(*verb.create, arguments.config, false);
  verb.create
      ->add_option("--org", arguments.organisations,
                   "Organisation that it is for, made when it is new (default local). Repeatable "
                   "for a personal token")
      ->type_name("SLUG")
      ->expected(1)
      ->take_all();
  verb.create->add_flag("--personal", arguments.personal,
                        "A token ddp_ for a person, who names the organisation with each request");
  verb.create->add_option("--name", arguments.name, "What it is for, to find it in the list")
      ->type_name("TEXT");
  verb.create
      ->add_option("--expires", arguments.expires,
                   "Valid for this time, such as 12h or 30d (default: until it is revoked)")
      ->type_name("TIME");
  verb.create->footer(
      "Examples:\n  hutch token create --org example --name ci --expires 30d\n"
      "  hutch token create --personal --org example --org other");

  verb.list = verb.app->add_subcommand("list", "List the tokens, without their text");
  add_config(*verb.list, arguments.config, false);
  verb.list->add_flag("--json", arguments.json, "As JSON");
  verb.list->footer("Example:\n  hutch token list --json");

  verb.revoke = verb.app->add_subcommand("revoke", "Make a token invalid at once");
  add_config(*verb.revoke, arguments.config, false);
  verb.revoke->add_option("ID", arguments.id, "Its number in the list")->required();
  verb.revoke->footer("Example:\n  hutch token revoke 3");
  return verb;
}

NetworkVerbs add_network(CLI::App& parent) {
  NetworkVerbs verbs{};
  verbs.arguments = std::make_shared<NetworkArguments>();
  NetworkArguments& arguments = *verbs.arguments;
  auto add_common = [&](CLI::App& verb, const char* about_json) {
    add_config(verb, arguments.config, false);
    verb.add_flag("--json", arguments.json, about_json);
  };
  auto add_id = [&](CLI::App& verb) {
    return verb.add_option("ID", arguments.id, "The id of a sandbox");
  };

  verbs.policy = parent.add_subcommand("policy", "Show or change which hosts a sandbox may reach");
  keep(*verbs.policy, verbs.arguments);
  verbs.policy->require_subcommand(1);
  verbs.policy->footer(
      "Examples:\n  hutch policy show sbx_loc_...\n"
      "  hutch policy set sbx_loc_... example.com '*.example.com:443'\n"
      "  hutch policy set sbx_loc_... none\n\n"
      "The server is the one that `hutch env` leads to, or that of the data folder.");
  verbs.show = verbs.policy->add_subcommand("show", "Print the hosts that it may reach");
  add_common(*verbs.show, "As JSON");
  add_id(*verbs.show)->required();
  verbs.show->footer("Example:\n  hutch policy show sbx_loc_...");
  verbs.set = verbs.policy->add_subcommand(
      "set", "Let it reach these hosts and no others from now on; connections to others are cut");
  add_common(*verbs.set, "Print the policy as JSON");
  add_id(*verbs.set)->required();
  verbs.set
      ->add_option("HOST", arguments.hosts,
                   "example.com, *.example.com, 203.0.113.5 or [2001:db8::1], each with or without "
                   ":port; or all; or none")
      ->required();
  verbs.set->footer(
      "Examples:\n  hutch policy set sbx_loc_... example.com '*.example.com:443'\n"
      "  hutch policy set sbx_loc_... none");

  verbs.net = parent.add_subcommand(
      "net", "Show what a sandbox asks of its network and what is decided, as it happens");
  keep(*verbs.net, verbs.arguments);
  add_common(*verbs.net, "The lines of the log themselves");
  verbs.net->add_flag("--no-follow", arguments.no_follow, "Print what there is, and end");
  add_id(*verbs.net);
  verbs.net->footer(
      "Examples:\n  hutch net sbx_loc_...\n  hutch net verify sbx_loc_...\n\n"
      "Each line of the log has the hash of the one before it: verify says whether one was changed,"
      "\nremoved or put in. The log stays when the sandbox has ended.");
  verbs.verify = verbs.net->add_subcommand("verify", "Check that nothing was changed in a log");
  add_common(*verbs.verify, "As JSON");
  verbs.verify->add_option("ID|FILE", arguments.id, "The id of a sandbox, or the file of a log")
      ->required();
  verbs.verify->footer("Example:\n  hutch net verify sbx_loc_...");
  return verbs;
}

namespace {

constexpr const char* kServer =
    "\n\nThe server is the one that `hutch env` leads to, or that of the data folder.";

// A verb of one sandbox or snapshot.
CLI::App* add_life_verb(CLI::App& parent, const LifeVerbs& verbs, const char* name,
                        const char* about) {
  CLI::App* verb = parent.add_subcommand(name, about);
  keep(*verb, verbs.arguments);
  add_config(*verb, verbs.arguments->config, false);
  verb->add_flag("--json", verbs.arguments->json, "As JSON");
  return verb;
}

void add_count(CLI::App& verb, LifeArguments& arguments) {
  verb.add_option("-n,--count", arguments.count, "How many (default 1)")
      ->type_name("N")
      ->check(CLI::Range(1, 1000));
  verb.add_option("--timeout", arguments.timeout,
                  "They end after this time, such as 90s, 10m or 12h (default 1h)")
      ->type_name("TIME");
}

void add_snapshots(CLI::App& parent, LifeVerbs& verbs) {
  LifeArguments& arguments = *verbs.arguments;
  verbs.snapshot = add_life_verb(parent, verbs, "snapshot",
                                 "Save a sandbox, with all that runs in it, to go on with later");
  verbs.snapshot->add_option("ID", arguments.id, "The id of a sandbox")->required();
  verbs.snapshot
      ->add_option("--name", arguments.name,
                   "What to call it: 2 to 32 lower-case letters, digits and hyphens")
      ->type_name("NAME");
  verbs.snapshot->footer(
      std::string("Examples:\n  hutch snapshot sbx_loc_...\n"
                  "  hutch snapshot --name ready sbx_loc_...\n\n"
                  "Prints the id of the snapshot. The sandbox goes on; the snapshot stays when it "
                  "has ended,\nand when the server has.") +
      kServer);
  verbs.restore = add_life_verb(parent, verbs, "restore",
                                "Make sandboxes that go on where a snapshot is, with its programs");
  verbs.restore->add_option("SNAPSHOT", arguments.id, "Its id or name")->required();
  add_count(*verbs.restore, arguments);
  verbs.restore->footer(std::string("Examples:\n  hutch restore ready\n"
                                    "  hutch restore -n 10 --timeout 10m snp_loc_...\n\n"
                                    "Prints the id of each sandbox once all of them serve.") +
                        kServer);
  verbs.snapshots = parent.add_subcommand("snapshots", "List and delete snapshots");
  keep(*verbs.snapshots, verbs.arguments);
  verbs.snapshots->require_subcommand(1);
  verbs.snapshots->footer(
      "Examples:\n  hutch snapshots list\n  hutch snapshots delete ready\n"
      "  hutch snapshots list --json");
  verbs.list = add_life_verb(*verbs.snapshots, verbs, "list", "List the snapshots");
  verbs.list->alias("ls");
  verbs.list->footer(std::string("Example:\n  hutch snapshots list --json") + kServer);
  verbs.remove = add_life_verb(*verbs.snapshots, verbs, "delete", "Delete a snapshot");
  verbs.remove->alias("rm");
  verbs.remove->add_option("SNAPSHOT", arguments.id, "Its id or name")->required();
  verbs.remove->footer(std::string("Example:\n  hutch snapshots delete ready\n\n"
                                   "Sandboxes that began with it go on.") +
                       kServer);
}

void add_templates(CLI::App& parent, LifeVerbs& verbs) {
  LifeArguments& arguments = *verbs.arguments;
  verbs.templates = parent.add_subcommand("template", "Prepare what sandboxes are forked from");
  keep(*verbs.templates, verbs.arguments);
  verbs.templates->require_subcommand(1);
  verbs.templates->footer(
      "Examples:\n  hutch template build\n  hutch template build --memory-mib 2048 --network");
  verbs.build = add_life_verb(*verbs.templates, verbs, "build",
                              "Save a machine of a size, so that no sandbox of it has to boot");
  verbs.build
      ->add_option("--memory-mib", arguments.memory_mib,
                   "Its memory (default: what the server gives who does not say)")
      ->type_name("MIB")
      ->check(CLI::Range(1, 1 << 20));
  verbs.build->add_flag("--network", arguments.network, "For sandboxes that have a network");
  verbs.build->footer(std::string("Examples:\n  hutch template build\n"
                                  "  hutch template build --memory-mib 2048 --network\n\n"
                                  "The first sandbox of a size leaves one behind as well.") +
                      kServer);
}

}  // namespace

LifeVerbs add_life(CLI::App& parent) {
  LifeVerbs verbs{};
  verbs.arguments = std::make_shared<LifeArguments>();
  LifeArguments& arguments = *verbs.arguments;
  auto add = [&](const char* name, const char* about) {
    CLI::App* verb = add_life_verb(parent, verbs, name, about);
    verb->add_option("ID", arguments.id, "The id of a sandbox")->required();
    return verb;
  };
  verbs.fork = add("fork", "Make sandboxes that go on where a running one is, with its programs");
  add_count(*verbs.fork, arguments);
  verbs.fork->footer(
      std::string("Examples:\n  hutch fork sbx_loc_...\n"
                  "  hutch fork -n 10 --timeout 10m sbx_loc_...\n\n"
                  "Prints the id of each once all of them serve; all are of the same "
                  "moment.") +
      kServer);
  verbs.pause = add("pause", "Let a sandbox stand still, with all that runs in it");
  verbs.pause->footer(std::string("Examples:\n  hutch pause sbx_loc_...\n\n"
                                  "It keeps its memory, its connections and its end; its clients "
                                  "wait.") +
                      kServer);
  verbs.resume = add("resume", "Let a sandbox that stands still go on");
  verbs.resume->footer(std::string("Examples:\n  hutch resume sbx_loc_...") + kServer);
  add_snapshots(parent, verbs);
  add_templates(parent, verbs);
  return verbs;
}

}  // namespace hutch::serve_options
