// The verb `machine`: the emulated machine that guests run in where this host's KVM cannot.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "cli/arguments.h"
#include "cli/failure.h"
#include "cli/machine.h"
#include "cli/run.h"
#include "cli/values.h"

namespace hutch::cli {
namespace {

const char* state_name(MachineStatus::State state) {
  switch (state) {
    case MachineStatus::State::kAbsent:
      return "absent";
    case MachineStatus::State::kRunning:
      return "running";
    case MachineStatus::State::kDead:
      return "dead";
  }
  return "unknown";
}

int print_status(bool json) {
  MachineStatus status = machine_status();
  bool exists = status.state != MachineStatus::State::kAbsent;
  if (json) {
    nlohmann::ordered_json report{{"state", state_name(status.state)}, {"folder", status.folder}};
    if (exists) {
      report["pid"] = status.process_id;
      report["port"] = status.port;
      report["memory"] = status.memory;
      report["cpus"] = status.cpus;
      report["virtual_time"] = status.virtual_time;
    }
    fmt::print("{}\n", report.dump());
  } else if (exists) {
    fmt::print("{}: process {}, port {}, {} MiB, {} CPUs{}\n", state_name(status.state),
               status.process_id, status.port, status.memory >> 20, status.cpus,
               status.virtual_time ? ", in virtual time" : "");
    if (status.state == MachineStatus::State::kDead)
      fmt::print("its console: {}/console.log\n", status.folder);
  } else {
    fmt::print("absent\n");
  }
  return status.state == MachineStatus::State::kRunning ? 0 : 1;
}

void add_start(Program& program, CLI::App& verb) {
  CLI::App* start = verb.add_subcommand("start", "Start the machine, or find it running");
  auto size = std::make_shared<MachineSize>();
  auto timeout = std::make_shared<std::chrono::nanoseconds>(std::chrono::minutes(3));
  start
      ->add_option_function<std::string>(
          "-m,--memory",
          [size](const std::string& text) {
            size->memory = checked("--memory", [&] { return parse_size(text); });
            if (size->memory < 512u << 20)
              throw CLI::ValidationError("--memory", "the machine needs at least 512MiB");
          },
          "Memory, such as 4GiB (the default); guests take theirs from it")
      ->type_name("SIZE");
  start
      ->add_option("-c,--cpus", size->cpus,
                   "CPUs (default 1: one thread emulates them all, so more are no faster)")
      ->type_name("N")
      ->check(CLI::Range(1, 64));
  start
      ->add_option_function<std::string>(
          "--timeout",
          [timeout](const std::string& text) {
            *timeout = checked("--timeout", [&] { return parse_duration(text); });
          },
          "Give up after this time (default 3m)")
      ->type_name("TIME");
  start->add_flag("--virtual-time", size->virtual_time,
                  "For measuring: its clock counts instructions, a nanosecond each, and jumps over "
                  "waits; one CPU");
  start->footer(
      "Examples:\n  hutch machine start\n  hutch machine start --memory 8GiB\n"
      "  HUTCH_RUNTIME=/tmp/virtual hutch machine start --virtual-time");
  start->callback([&program, size, timeout] {
    // The second one would never start.
    if (size->virtual_time && size->cpus > 1)
      throw CLI::ValidationError("--virtual-time", "the machine has one CPU then, not more");
    program.action = [size, timeout] {
      start_machine(*size, *timeout);
      return print_status(false);
    };
  });
}

void add_execute(Program& program, CLI::App& verb) {
  CLI::App* execute = verb.add_subcommand(
      "exec", "Run a command in the machine, in the same folder and with the same streams");
  auto terminal = std::make_shared<TerminalChoice>(TerminalChoice::kDetect);
  auto input = std::make_shared<bool>(true);
  execute->add_flag_callback(
      "-t,--tty", [terminal] { *terminal = TerminalChoice::kAlways; },
      "Give the command a terminal (the default when standard input and output are terminals)");
  execute->add_flag_callback(
      "-T,--no-tty", [terminal] { *terminal = TerminalChoice::kNever; }, "Give it no terminal");
  execute->add_flag_callback(
      "-i,--interactive", [input] { *input = true; }, "Pass standard input on (the default)");
  execute->add_flag_callback(
      "-n,--no-stdin", [input] { *input = false; }, "The command's standard input is /dev/null");
  execute->footer(
      "Examples:\n  hutch machine exec -- uname -a\n  hutch machine exec -- ls "
      "/sys/kernel/debug/kvm");
  take_command(*execute);
  execute->callback([&program, execute, terminal, input] {
    std::vector<std::string> command = taken_command(program, *execute);
    if (command.empty()) throw CLI::ValidationError("COMMAND", "give a command to run");
    program.action = [command, terminal, input] {
      return execute_in_machine(command, wants_terminal(*terminal), *input);
    };
  });
}

}  // namespace

void add_machine(Program& program) {
  CLI::App* verb = program.app.add_subcommand(
      "machine", "The emulated machine for hosts whose KVM cannot run guests");
  verb->require_subcommand(1);
  verb->footer(R"(Examples:
  hutch machine start --memory 4GiB
  hutch machine exec -- uname -a
  hutch machine status --json
  hutch machine stop

`hutch run` starts the machine by itself where it needs it. The machine is a Linux host with a
working KVM that QEMU emulates in software: slow, but it behaves the same. It sees this host's files
at the same paths.)");
  add_start(program, *verb);
  CLI::App* stop = verb->add_subcommand("stop", "Let the machine power itself off");
  stop->footer("Example:\n  hutch machine stop");
  stop->callback([&program] {
    program.action = [] {
      notice(stop_machine() ? "the machine has stopped" : "the machine was not running");
      return 0;
    };
  });
  CLI::App* status = verb->add_subcommand(
      "status", "Print its state: running, dead or absent; exit code 0 only when it runs");
  auto json = std::make_shared<bool>(false);
  status->add_flag("--json", *json, "As JSON");
  status->footer("Examples:\n  hutch machine status\n  hutch machine status --json");
  status->callback([&program, json] {
    program.json = *json;
    program.action = [json] { return print_status(*json); };
  });
  add_execute(program, *verb);
  CLI::App* remove = verb->add_subcommand("rm", "Stop the machine and remove its state");
  remove->footer("Example:\n  hutch machine rm");
  remove->callback([&program] {
    program.action = [] {
      notice(remove_machine() ? "the machine is removed" : "there was no machine");
      return 0;
    };
  });
}

}  // namespace hutch::cli
