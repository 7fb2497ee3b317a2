// The program as a whole: its description, and what becomes of its arguments and errors.
#include <fmt/format.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "base/sys.h"
#include "cli/arguments.h"
#include "cli/failure.h"
#include "cli/machine.h"

namespace hutch::cli {

namespace {

// Our word for what CLI11 calls subcommands.
void name_verbs(CLI::App& app) {
  for (CLI::App* verb : app.get_subcommands([](const CLI::App*) { return true; })) {
    if (!verb->get_group().empty()) verb->group("Verbs");
    name_verbs(*verb);
  }
}

// What is wrong when no verb was found: CLI11 does not say.
std::string verb_fault(const Program& program) {
  const std::string& word = program.words.front();
  auto known =
      program.app.get_subcommands([&](const CLI::App* verb) { return verb->get_name() == word; });
  if (!known.empty()) return fmt::format("{} wants a verb of its own", word);
  if (word.starts_with("-")) return "a verb is missing";
  return fmt::format("there is no verb {}", word);
}

}  // namespace

void describe(Program& program) {
  CLI::App& app = program.app;
  app.name("hutch");
  app.description("Run programs in a Linux machine of their own");
  app.footer(R"(Examples:
  hutch run -- python3 -c 'print(6*7)'
  hutch run                        a shell in a fresh machine
  hutch serve                      sandboxes for @deno/sandbox
  hutch doctor                     is this host ready?
  hutch bench exec                 how long does a command take?
  hutch VERB --help                more examples

Environment:
  HUTCH_SHARE      folder with kernel, initramfs and images
  HUTCH_SCRATCH    folder for the writable layers of machines (default TMPDIR or /var/tmp)

Manual pages: hutch(1), hutch-run(1), hutch-serve(1), hutch-env(1), hutch-token(1), hutch-policy(1), hutch-net(1), hutch-fork(1), hutch-pause(1),
hutch-resume(1), hutch-snapshot(1), hutch-restore(1), hutch-snapshots(1), hutch-template(1), hutch-doctor(1), hutch-machine(1), hutch-bench(1))");
  app.require_subcommand(1);
  use_help(app);
  app.set_version_flag("--version", "hutch " HUTCH_VERSION, "Print the version");
  add_run(program);
  add_doctor(program);
  add_machine(program);
  add_serve(program);
  add_bench(program);
  add_version(program);
  add_completion(program);
  add_man(program);
  name_verbs(app);
}

void take_command(CLI::App& verb) {
  verb.prefix_command();
}

std::vector<std::string> taken_command(const Program& program, const CLI::App& verb) {
  std::vector<std::string> words = verb.remaining();
  // CLI11 would take an option that it does not know for the command.
  if (!words.empty() && words.front().starts_with("-") && words.front().size() > 1)
    throw CLI::ExtrasError({words.front()});
  // `hutch run git log -- FILE`: the first word began the command, so the dashes are its own.
  if (!words.empty() && program.has_dashes) words.push_back("--");
  words.insert(words.end(), program.behind_dashes.begin(), program.behind_dashes.end());
  return words;
}

int run_program(int count, const char* const* words, uint64_t start_ns) {
  Program program;
  program.start_ns = start_ns;
  program.words.assign(words + 1, words + count);
  // What is behind the dashes is never ours to look at.
  auto dashes = std::find(program.words.begin(), program.words.end(), "--");
  program.has_dashes = dashes != program.words.end();
  if (program.has_dashes) program.behind_dashes.assign(dashes + 1, program.words.end());
  // An error in the arguments themselves is to be JSON too.
  program.json = std::find(program.words.begin(), dashes, "--json") != dashes;
  try {
    take_messages_variable();
    describe(program);
    program.app.parse(count - static_cast<int>(program.words.end() - dashes), words);
    return program.action();
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return program.app.exit(error);
    if (program.words.empty()) {
      fmt::print(stderr, "{}", program.app.help());
      return kExitUsage;
    }
    std::string message = error.what();
    if (message == "A subcommand is required") message = verb_fault(program);
    Failure(kExitUsage, "usage", message, "see: hutch --help, or hutch VERB --help")
        .print(program.json);
    return kExitUsage;
  } catch (const Failure& failure) {
    failure.print(program.json);
    return failure.exit_code();
  } catch (const std::exception& error) {
    Failure("internal", error.what()).print(program.json);
    return kExitFailure;
  }
}

}  // namespace hutch::cli
