// The verb `run`: what it takes on the command line.
#include <fmt/format.h>

#include <memory>

#include "base/sys.h"
#include "cli/arguments.h"
#include "cli/failure.h"
#include "cli/host_probe.h"
#include "cli/machine.h"
#include "cli/run.h"
#include "cli/share.h"

namespace hutch::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  hutch run -- uname -a
  hutch run -- python3 -c 'print(6*7)'
  hutch run                                      a shell in a machine of its own
  tar c . | hutch run -w /app -- tar xv          standard input is passed on
  hutch run --memory 2GiB --cpus 4 --timeout 5m -- make -j4
  hutch run -e TOKEN --env-file .env -u app -- node server.js
  hutch run --disk data.img -- mount /dev/vdc /mnt
  hutch run --timings --json -- true
  hutch run --allow-net example.com --allow-net '*.example.com:443' -- curl https://example.com
  hutch run --kernel vmlinuz --initramfs initrd --console

Exit codes: that of the command; 125 when hutch itself failed, 126 when the command cannot be
executed, 127 when there is none of that name, 124 when --timeout passed, 128+N when signal N ended
it, 2 for wrong usage.

Signals INT, TERM, HUP, QUIT, USR1 and USR2 go to the command's process group; a second INT or TERM
ends the machine at once. On a terminal the command gets a terminal too, and Ctrl-C is its own.)";

void set_terminal(RunArguments& arguments, TerminalChoice choice) {
  arguments.terminal = choice;
}

void add_machine_options(CLI::App& verb, RunArguments& arguments) {
  verb.add_option_function<std::string>(
          "-m,--memory",
          [&](const std::string& text) {
            arguments.memory = checked("--memory", [&] { return parse_size(text); });
            if (arguments.memory < 128u << 20)
              throw CLI::ValidationError(
                  "--memory", fmt::format("{} is less than 128 MiB; write 768MiB or 2GiB", text));
            // A machine has whole MiB.
            arguments.memory = (arguments.memory + (1 << 20) - 1) & ~uint64_t{(1 << 20) - 1};
          },
          "Memory of the machine, such as 768MiB or 2GiB (default 768MiB)")
      ->type_name("SIZE");
  verb.add_option("-c,--cpus", arguments.cpus, "CPUs of the machine, 1 to 16 (default 2)")
      ->type_name("N")
      ->check(CLI::Range(1, 16));
  verb.add_option_function<std::string>(
          "--timeout",
          [&](const std::string& text) {
            arguments.timeout = checked("--timeout", [&] { return parse_duration(text); });
          },
          "End the command after this time, boot included: SIGTERM, 2 s later by force; exit code "
          "124")
      ->type_name("TIME");
  verb.add_option_function<std::string>(
          "--boot-timeout",
          [&](const std::string& text) {
            arguments.boot_timeout =
                checked("--boot-timeout", [&] { return parse_duration(text); });
          },
          "Give up when the agent in the guest has not answered after this time (default 60s, "
          "180s in the emulated machine)")
      ->type_name("TIME");
  verb.add_option("--image", arguments.image,
                  "The root file system: core, min, or the path of an EROFS file (default core)")
      ->type_name("NAME|FILE");
  verb.add_option_function<std::vector<std::string>>(
          "--disk",
          [&](const std::vector<std::string>& list) {
            for (const std::string& text : list)
              arguments.disks.push_back(checked("--disk", [&] { return parse_disk(text); }));
          },
          "Attach a disk image, writable unless :ro; the first is /dev/vdc (/dev/vda without a "
          "command). Repeatable")
      ->type_name("FILE[:ro]")
      ->expected(1)
      ->take_all();
  verb.add_option("--allow-net", arguments.allow_net,
                  "Give the machine a network and let it reach this host: example.com, "
                  "*.example.com, 203.0.113.5 or [2001:db8::1], each with or without :port; or "
                  "all, for the whole Internet. Repeatable (default: no network)")
      ->type_name("HOST")
      // Else [2001:db8::1] would be a list of one.
      ->allow_extra_args(false)
      ->expected(1)
      ->take_all();
  verb.add_option("--open-block", arguments.open_blocks,
                  "Let what --allow-net allows lie in this block of private addresses, such as "
                  "10.1.0.0/16. Repeatable")
      ->type_name("BLOCK")
      ->expected(1)
      ->take_all();
  verb.add_flag("--ipv6", arguments.ipv6,
                "Let the machine reach hosts over IPv6, too; this host must have it");
  verb.add_option("--net-log", arguments.network_log,
                  "Append what the machine asks of its network, and what is decided, to this file; "
                  "see hutch net verify")
      ->type_name("FILE");
  verb.add_option("--dns", arguments.dns_servers,
                  "Ask this DNS server, with or without :port, instead of the host's. Repeatable")
      ->type_name("ADDRESS")
      ->expected(1)
      ->take_all();
  verb.add_option(
          "--kernel", arguments.kernel,
          "Boot another kernel, ELF vmlinux or bzImage. Without a command the machine gets "
          "nothing of ours and ends when its guest does; with one, the kernel must have what "
          "our initramfs needs (virtio-mmio, vsock, EROFS), or --initramfs bring it and "
          "the agent")
      ->type_name("FILE");
  verb.add_option("--initramfs", arguments.initramfs, "Another initramfs")->type_name("FILE");
  verb.add_option("--cmdline", arguments.command_line,
                  "Words to add to the kernel command line; of contrary words the last counts")
      ->type_name("WORDS");
}

void add_command_options(CLI::App& verb, RunArguments& arguments) {
  verb.add_option_function<std::vector<std::string>>(
          "-e,--env",
          [&](const std::vector<std::string>& list) {
            for (const std::string& text : list)
              for (std::string& word : checked("--env", [&] { return parse_environment(text); }))
                arguments.environment.push_back(std::move(word));
          },
          "Set a variable; NAME alone passes the value that it has here. Repeatable")
      ->type_name("NAME[=VALUE]")
      ->expected(1)
      ->take_all();
  verb.add_option_function<std::vector<std::string>>(
          "--env-file",
          [&](const std::vector<std::string>& list) {
            std::vector<std::string> words;
            for (const std::string& path : list) {
              Result<std::string> content = read_file(path, 1 << 20);
              if (!content) throw CLI::ValidationError("--env-file", content.error().text());
              for (std::string& word :
                   checked("--env-file " + path, [&] { return parse_environment_file(*content); }))
                words.push_back(std::move(word));
            }
            // What -e says counts more, whatever the order.
            arguments.environment.insert(arguments.environment.begin(), words.begin(), words.end());
          },
          "Set the variables of a file with lines NAME=VALUE. Repeatable")
      ->type_name("FILE")
      ->expected(1)
      ->take_all();
  verb.add_option("-w,--workdir", arguments.directory,
                  "Working directory of the command (default: the user's home)")
      ->type_name("DIR");
  verb.add_option("-u,--user", arguments.user, "User of the command, name or number (default root)")
      ->type_name("USER");
  verb.add_flag_callback(
      "-i,--interactive", [&] { arguments.input = true; }, "Pass standard input on (the default)");
  verb.add_flag_callback(
      "-n,--no-stdin", [&] { arguments.input = false; },
      "Do not read standard input: the command's is /dev/null");
  verb.add_flag_callback(
      "-t,--tty", [&] { set_terminal(arguments, TerminalChoice::kAlways); },
      "Give the command a terminal (the default when standard input and output are terminals)");
  verb.add_flag_callback(
      "-T,--no-tty", [&] { set_terminal(arguments, TerminalChoice::kNever); },
      "Give the command no terminal");
}

void check(const RunArguments& arguments) {
  if (arguments.allow_net.empty() &&
      !(arguments.open_blocks.empty() && arguments.dns_servers.empty() &&
        arguments.network_log.empty() && !arguments.ipv6))
    throw CLI::ValidationError(
        "--allow-net",
        "without it the machine has no network for --open-block, --dns, --ipv6 or --net-log");
  if (!arguments.command.empty()) return;
  if (!arguments.console)
    throw CLI::ValidationError(
        "COMMAND", "with --kernel, give a command, or --console to see the machine's console");
}

}  // namespace

void add_run(Program& program) {
  CLI::App* verb = program.app.add_subcommand("run", "Run a command in a machine of its own");
  auto arguments = std::make_shared<RunArguments>();
  add_machine_options(*verb, *arguments);
  add_command_options(*verb, *arguments);
  verb->add_flag("--entropy-device", arguments->entropy_device,
                 "Give the machine a virtio-rng device, /dev/hwrng; its kernel is seeded without");
  verb->add_flag("--console", arguments->console,
                 "Show the machine's serial console: beside a command on standard error, else on "
                 "standard output, with standard input to it (Ctrl-] ends)");
  verb->add_flag("--timings", arguments->timings,
                 "At the end, report on standard error when the stages of the boot were reached");
  verb->add_flag("--json", arguments->json,
                 "Errors and timings as JSON, one line on standard error");
  verb->footer(kExamples);
  take_command(*verb);
  verb->callback([&program, verb, arguments] {
    arguments->command = taken_command(program, *verb);
    program.json = arguments->json;
    if (arguments->command.empty() && arguments->kernel.empty())
      arguments->command = {"/bin/bash", "-l"};
    check(*arguments);
    program.action = [&program, arguments] {
      if (is_in_machine()) return run_here(*arguments, program.start_ns);
      Probe probe = cached_probe();
      if (probe.ok) return run_here(*arguments, program.start_ns);
      return run_in_machine(program.words, wants_terminal(arguments->terminal), arguments->input,
                            probe.detail);
    };
  });
}

}  // namespace hutch::cli
