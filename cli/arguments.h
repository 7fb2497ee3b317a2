// The verbs and what they are asked: one description each, from which --help, the manual pages and
// the completion are made.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

namespace hutch::cli {

// The program's description. A verb sets `action` when it is chosen; the exit code is its result.
struct Program {
  CLI::App app;
  std::function<int()> action;
  bool json = false;               // errors as JSON
  uint64_t start_ns = 0;           // of CLOCK_MONOTONIC, when the program began
  std::vector<std::string> words;  // the command line as given, without the program's name
  bool has_dashes = false;         // it holds `--`
  std::vector<std::string> behind_dashes;
};

// Adds all verbs.
void describe(Program& program);
// Does what the command line says; the exit code of the program. `start_ns` is when it began.
int run_program(int count, const char* const* words, uint64_t start_ns);

// Each adds one verb.
void add_run(Program& program);
void add_doctor(Program& program);
void add_machine(Program& program);
void add_bench(Program& program);
void add_serve(Program& program);  // and env and token
void add_version(Program& program);
void add_completion(Program& program);
void add_man(Program& program);

// How --help looks; verbs added later look so too.
void use_help(CLI::App& app);
// "hutch run [OPTION]... [--] [COMMAND [ARGUMENT]...]"
std::string usage(const CLI::App& app);
// "-m, --memory SIZE"; "SIZE"; "-m" and "--memory".
std::string option_words(const CLI::Option& option);
std::string value_name(const CLI::Option& option);
std::vector<std::string> option_names_of(const CLI::Option& option);

// Lets the verb's first word that is no option, or what is behind `--`, begin a command of its own.
void take_command(CLI::App& verb);
std::vector<std::string> taken_command(const Program& program, const CLI::App& verb);

// Turns an exception of values.h into CLI11's usage error.
template <typename Function>
auto checked(const std::string& option, Function function) {
  try {
    return function();
  } catch (const std::invalid_argument& error) {
    throw CLI::ValidationError(option, error.what());
  }
}

}  // namespace hutch::cli
