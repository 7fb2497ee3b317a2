// The command line as a whole: what is wrong usage, and what becomes of the words of a command.
#include <doctest/doctest.h>

#include "cli/arguments.h"
#include "cli/failure.h"
#include "serve-options/config.h"

using namespace hutch::cli;
using Words = std::vector<std::string>;

namespace {

// What a verb that takes a command makes of these words.
Words command_of(const Words& before, bool has_dashes, const Words& behind) {
  Program program;
  CLI::App* verb = program.app.add_subcommand("run", "");
  bool flag = false;
  std::string value;
  verb->add_flag("-t", flag);
  verb->add_option("-e", value);
  take_command(*verb);
  program.has_dashes = has_dashes;
  program.behind_dashes = behind;
  Words words(before.rbegin(), before.rend());
  words.push_back("run");
  program.app.parse(words);
  return taken_command(program, *verb);
}

// Every verb that is shown, with its path.
void collect(const CLI::App& app, std::vector<const CLI::App*>& list) {
  for (const CLI::App* verb : app.get_subcommands([](const CLI::App*) { return true; })) {
    if (verb->get_group().empty()) continue;
    list.push_back(verb);
    collect(*verb, list);
  }
}

}  // namespace

TEST_CASE("a command begins behind the dashes") {
  CHECK(command_of({}, true, {"ls", "-l", "--", "x"}) == Words{"ls", "-l", "--", "x"});
  CHECK(command_of({"-t", "-e", "A=1"}, true, {"ls"}) == Words{"ls"});
}

TEST_CASE("a command begins with the first word that is no option, and keeps its own options") {
  CHECK(command_of({"-t", "ls", "-t", "-l"}, false, {}) == Words{"ls", "-t", "-l"});
  CHECK(command_of({"-e", "A=1", "env"}, false, {}) == Words{"env"});
}

TEST_CASE("dashes inside a command are its own") {
  CHECK(command_of({"git", "log"}, true, {"file"}) == Words{"git", "log", "--", "file"});
}

TEST_CASE("wrong usage exits with 2") {
  for (const Words& words : std::vector<Words>{{"hutch", "nonsense"},
                                               {"hutch", "run", "--memory", "lots", "--", "true"},
                                               {"hutch", "run", "--memory", "64M", "--", "true"},
                                               {"hutch", "run", "--cpus", "0", "--", "true"},
                                               {"hutch", "run", "--cpus", "17", "--", "true"},
                                               {"hutch", "run", "--timeout", "soon", "--", "true"},
                                               {"hutch", "run", "--disk", ":ro", "--", "true"},
                                               {"hutch", "run", "-e", "=x", "--", "true"},
                                               {"hutch", "run", "--no-such-option", "--", "true"},
                                               {"hutch", "run", "--kernel", "vmlinuz"},
                                               {"hutch", "machine"},
                                               {"hutch", "machine", "exec"},
                                               {"hutch", "completion", "tcsh"},
                                               {"hutch", "serve", "--port", "0"},
                                               {"hutch", "serve", "--no-such-option"},
                                               {"hutch", "token"},
                                               {"hutch", "token", "revoke", "x"}}) {
    std::vector<const char*> pointers;
    for (const std::string& word : words) pointers.push_back(word.c_str());
    CAPTURE(words.back());
    CHECK(run_program(static_cast<int>(pointers.size()), pointers.data(), 0) == kExitUsage);
  }
}

TEST_CASE("a host in brackets keeps them") {
  Program program;
  describe(program);
  Words words{"true", "b.test", "--allow-net", "[2001:db8::1]", "--allow-net", "run"};
  program.app.parse(words);
  CHECK(program.app.get_subcommand("run")->get_option("--allow-net")->results() ==
        Words{"[2001:db8::1]", "b.test"});
}

TEST_CASE("every verb has a description, and an example to copy") {
  Program program;
  describe(program);
  std::vector<const CLI::App*> verbs;
  collect(program.app, verbs);
  CHECK(verbs.size() >= 9);
  for (const CLI::App* verb : verbs) {
    CAPTURE(verb->get_name());
    CHECK_FALSE(verb->get_description().empty());
    CHECK(verb->get_footer().find("Example") != std::string::npos);
    CHECK(verb->get_footer().find("  hutch ") != std::string::npos);
  }
}

TEST_CASE("every option has a description without a final full stop") {
  Program program;
  describe(program);
  std::vector<const CLI::App*> verbs;
  collect(program.app, verbs);
  for (const CLI::App* verb : verbs)
    for (const CLI::Option* option : verb->get_options()) {
      CAPTURE(verb->get_name());
      CAPTURE(option->get_name());
      CHECK_FALSE(option->get_description().empty());
      CHECK_FALSE(option->get_description().ends_with("."));
    }
}

TEST_CASE("the server's verbs show every key of its configuration") {
  Program program;
  describe(program);
  const CLI::App* serve = program.app.get_subcommand("serve");
  for (const auto& key : hutch::serve_options::config_keys()) {
    std::string name = hutch::serve_options::flag_name(key.name);
    CAPTURE(name);
    const CLI::Option* option = serve->get_option_no_throw(name);
    REQUIRE(option != nullptr);
    CHECK(option_words(*option) == (*key.value_name == '\0' ? name : name + " " + key.value_name));
  }
  CHECK(usage(*program.app.get_subcommand("token")->get_subcommand("revoke")) ==
        "hutch token revoke [OPTION]... ID");
  CHECK(usage(*program.app.get_subcommand("token")) == "hutch token [OPTION]... VERB");
  CHECK(usage(*program.app.get_subcommand("net")) == "hutch net [OPTION]... ID");
}

TEST_CASE("words of the server's verbs are understood") {
  for (const Words& words : std::vector<Words>{
           {"serve", "--config", "f", "--tls-self-made", "--port", "8000", "--listen", "::1"},
           {"env", "--config", "f", "--data-folder", "d"},
           {"token", "create", "--org", "acme", "--name", "ci", "--expires", "30d"},
           {"token", "create", "--personal", "--org", "acme", "--org", "other"},
           {"token", "list", "--json", "--data-folder", "d"},
           {"token", "revoke", "3"},
           {"policy", "show", "sbx_loc_x", "--json"},
           {"policy", "set", "sbx_loc_x", "a.test", "*.b.test:443"},
           {"policy", "set", "sbx_loc_x", "none"},
           {"net", "sbx_loc_x", "--no-follow", "--json"},
           {"net", "verify", "net.jsonl"}}) {
    Program program;
    describe(program);
    CAPTURE(words.front());
    program.app.parse(Words(words.rbegin(), words.rend()));
    CHECK(program.action != nullptr);
  }
}

TEST_CASE("option words show both names and the value") {
  Program program;
  describe(program);
  const CLI::App* run = program.app.get_subcommand("run");
  CHECK(option_words(*run->get_option("--memory")) == "-m, --memory SIZE");
  CHECK(option_words(*run->get_option("--cpus")) == "-c, --cpus N");
  CHECK(option_words(*run->get_option("--console")) == "--console");
  CHECK(usage(*run) == "hutch run [OPTION]... [--] [COMMAND [ARGUMENT]...]");
}
