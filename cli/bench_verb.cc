// The verb `bench`, which the program hutch-bench does where guests run.
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/arguments.h"
#include "cli/failure.h"
#include "cli/host_probe.h"
#include "cli/machine.h"
#include "cli/share.h"

namespace hutch::cli {
namespace {

struct ExecArguments {
  uint32_t count = 200;
  uint32_t file_mib = 16;
  uint32_t file_count = 10;
  std::string image = "core";
  std::string node = "node";
  std::string sdk;
  std::string json_file;
};

constexpr const char* kExecFooter = R"(Examples:
  hutch bench exec
  hutch bench exec --sdk ~/project --json exec.json

The same command and the same file over libhutch and the agent, over a server with JSON-RPC, and over
the npm client, in turns, beside a child process of this host. What the clock measures ends when
output, its end and the exit status have arrived. Where guests run in the emulated machine, all
of it does, the client too.)";

struct ForkArguments {
  uint32_t count = 30;
  uint32_t memory_mib = 1280;
  std::string image = "core";
  std::string json_file;
};

constexpr const char* kForkFooter = R"(Examples:
  hutch bench fork
  hutch bench fork --count 100 --json fork.json

A machine is booted and saved; then machines are booted, and forked from the saved one, in turns.
What the clock measures begins before the process of the VMM and ends when output, its end and the
exit status of `echo hello` have arrived. Exit status 1: a gate is not met.)";

struct SetupArguments {
  uint32_t count = 200;
  uint32_t run_count = 50;
  std::string qemu = "qemu-system-x86_64";
  std::string json_file;
};

constexpr const char* kSetupFooter = R"(Examples:
  hutch bench setup
  hutch bench setup --count 500 --json setup.json

Needs a /dev/kvm that runs a few instructions, not one that runs kernels. kvm_setup: the calls to
KVM from its opening to the first KVM_RUN, ours beside the order of other machine monitors, which
create the interrupt controllers before they give the guest memory. first_run: from before the
process of the VMM to the guest's first byte on its serial port, beside QEMU microvm.
Exit status 1: a gate is not met.)";

struct BootArguments {
  uint32_t count = 30;
  uint32_t memory_mib = 512;
  std::string image = "core";
  std::vector<std::string> peers{"qemu=qemu-system-x86_64"};
  std::string json_file;
};

constexpr const char* kBootFooter = R"(Examples:
  hutch bench boot
  hutch bench boot --peer qemu=qemu-system-x86_64 --peer firecracker=/opt/firecracker

A cold boot, from before the process of the VMM to the answer to `echo hello`, beside other machine
monitors in the same run, with the same kernel, initramfs, image and agent, in turns. Peers are
qemu, firecracker and cloud-hypervisor. Exit status 1: a gate is not met.)";

struct CreateArguments {
  uint32_t count = 30;
  std::string image = "core";
  std::string json_file;
};

constexpr const char* kCreateFooter = R"(Examples:
  hutch bench create
  hutch bench create --count 100 --json create.json

What a client of `hutch serve` waits for: from the request for a sandbox to the answer to its first
command. Ours is a fork of a template, beside a server without templates, which boots each sandbox.
Exit status 1: the gate is not met.)";

struct DensityArguments {
  uint32_t most = 1000;
  uint32_t limit_mib = 1024;
  uint32_t burst = 50;
  uint32_t seconds = 20;
  uint32_t memory_mib = 1280;
  std::string image = "core";
  std::string json_file;
};

constexpr const char* kDensityFooter = R"(Examples:
  hutch bench density
  hutch bench density --most 100 --burst 20 --json density.json

Forks of a saved machine that do nothing, until they have so much memory of their own; a burst of
forks; and forks that are made, asked and destroyed, on all CPUs. Each has answered `echo hello`.
No two may have the same identity, and no process and no open file may be left.)";

[[noreturn]] void run_here(const nlohmann::json& given) {
  std::string path = find_program("hutch-bench");
  std::string text = given.dump();
  ::execl(path.c_str(), path.c_str(), text.c_str(), nullptr);
  throw Failure(fail_errno(errno, "running " + path).value());
}

int run_bench(const Program& program, const nlohmann::json& given) {
  if (!is_in_machine()) {
    Probe probe = cached_probe();
    if (!probe.ok) return run_in_machine(program.words, false, false, probe.detail, {});
  }
  run_here(given);
}

int run_fork(const Program& program, const ForkArguments& arguments) {
  return run_bench(program, {{"what", "fork"},
                             {"count", arguments.count},
                             {"memory_mib", arguments.memory_mib},
                             {"image", arguments.image},
                             {"json_file", arguments.json_file}});
}

int run_exec(const Program& program, const ExecArguments& arguments) {
  nlohmann::json given{{"what", "exec"},
                       {"count", arguments.count},
                       {"file_mib", arguments.file_mib},
                       {"file_count", arguments.file_count},
                       {"image", arguments.image},
                       {"node", arguments.node},
                       {"sdk", arguments.sdk},
                       {"json_file", arguments.json_file}};
  return run_bench(program, given);
}

void add_fork(Program& program, CLI::App& bench) {
  auto arguments = std::make_shared<ForkArguments>();
  CLI::App* verb = bench.add_subcommand("fork", "A fork of a machine beside a boot");
  verb->footer(kForkFooter);
  verb->add_option("--count", arguments->count, "How many of each (default 30)")
      ->type_name("N")
      ->check(CLI::Range(2, 10000));
  verb->add_option("--memory-mib", arguments->memory_mib, "Memory of a machine (default 1280)")
      ->type_name("MIB")
      ->check(CLI::Range(128, 65536));
  verb->add_option("--image", arguments->image, "Image of the machines (default core)")
      ->type_name("NAME|FILE");
  verb->add_option("--json", arguments->json_file, "Write the results to this file")
      ->type_name("FILE");
  verb->callback([&program, arguments] {
    program.action = [&program, arguments] { return run_fork(program, *arguments); };
  });
}

void add_boot(Program& program, CLI::App& bench) {
  auto arguments = std::make_shared<BootArguments>();
  CLI::App* verb = bench.add_subcommand("boot", "A cold boot beside other machine monitors");
  verb->footer(kBootFooter);
  verb->add_option("--count", arguments->count, "How many boots of each (default 30)")
      ->type_name("N")
      ->check(CLI::Range(2, 10000));
  verb->add_option("--memory-mib", arguments->memory_mib, "Memory of a machine (default 512)")
      ->type_name("MIB")
      ->check(CLI::Range(128, 65536));
  verb->add_option("--image", arguments->image, "Image of the machines (default core)")
      ->type_name("NAME|FILE");
  verb->add_option("--peer", arguments->peers,
                   "Another machine monitor, repeatable (default qemu=qemu-system-x86_64)")
      ->type_name("NAME=PATH");
  verb->add_option("--json", arguments->json_file, "Write the results to this file")
      ->type_name("FILE");
  verb->callback([&program, arguments] {
    program.action = [&program, arguments] {
      return run_bench(program, {{"what", "boot"},
                                 {"count", arguments->count},
                                 {"memory_mib", arguments->memory_mib},
                                 {"image", arguments->image},
                                 {"peers", arguments->peers},
                                 {"json_file", arguments->json_file}});
    };
  });
}

void add_create(Program& program, CLI::App& bench) {
  auto arguments = std::make_shared<CreateArguments>();
  CLI::App* verb = bench.add_subcommand("create", "Making a sandbox of a server");
  verb->footer(kCreateFooter);
  verb->add_option("--count", arguments->count, "How many of each (default 30)")
      ->type_name("N")
      ->check(CLI::Range(2, 10000));
  verb->add_option("--image", arguments->image, "Image of the sandboxes (default core)")
      ->type_name("NAME|FILE");
  verb->add_option("--json", arguments->json_file, "Write the results to this file")
      ->type_name("FILE");
  verb->callback([&program, arguments] {
    program.action = [&program, arguments] {
      return run_bench(program, {{"what", "create"},
                                 {"count", arguments->count},
                                 {"image", arguments->image},
                                 {"json_file", arguments->json_file}});
    };
  });
}

void add_density(Program& program, CLI::App& bench) {
  auto arguments = std::make_shared<DensityArguments>();
  CLI::App* verb = bench.add_subcommand("density", "Many machines on one host");
  verb->footer(kDensityFooter);
  verb->add_option("--most", arguments->most, "Idle forks (default 1000)")
      ->type_name("N")
      ->check(CLI::Range(2, 100000));
  verb->add_option("--limit-mib", arguments->limit_mib,
                   "Make no more idle ones once they have this much of their own (default 1024)")
      ->type_name("MIB")
      ->check(CLI::Range(1, 1 << 24));
  verb->add_option("--burst", arguments->burst, "Forks made at once (default 50)")
      ->type_name("N")
      ->check(CLI::Range(2, 10000));
  verb->add_option("--seconds", arguments->seconds,
                   "How long machines are made one after another (default 20)")
      ->type_name("N")
      ->check(CLI::Range(1, 86400));
  verb->add_option("--memory-mib", arguments->memory_mib, "Memory of a machine (default 1280)")
      ->type_name("MIB")
      ->check(CLI::Range(128, 65536));
  verb->add_option("--image", arguments->image, "Image of the machines (default core)")
      ->type_name("NAME|FILE");
  verb->add_option("--json", arguments->json_file, "Write the results to this file")
      ->type_name("FILE");
  verb->callback([&program, arguments] {
    program.action = [&program, arguments] {
      return run_bench(program, {{"what", "density"},
                                 {"most", arguments->most},
                                 {"limit_mib", arguments->limit_mib},
                                 {"burst", arguments->burst},
                                 {"seconds", arguments->seconds},
                                 {"memory_mib", arguments->memory_mib},
                                 {"image", arguments->image},
                                 {"json_file", arguments->json_file}});
    };
  });
}

void add_setup(Program& program, CLI::App& bench) {
  auto arguments = std::make_shared<SetupArguments>();
  CLI::App* verb = bench.add_subcommand("setup", "Setting KVM up, and a guest's first instruction");
  verb->footer(kSetupFooter);
  verb->add_option("--count", arguments->count, "Turns of each order of the set-up (default 200)")
      ->type_name("N")
      ->check(CLI::Range(30, 100000));
  verb->add_option("--run-count", arguments->run_count, "Starts of each program (default 50)")
      ->type_name("N")
      ->check(CLI::Range(30, 100000));
  verb->add_option("--qemu", arguments->qemu,
                   "QEMU (default qemu-system-x86_64); empty: without it")
      ->type_name("PROGRAM");
  verb->add_option("--json", arguments->json_file, "Write the results to this file")
      ->type_name("FILE");
  verb->callback([&program, arguments] {
    program.action = [arguments]() -> int {
      run_here({{"what", "setup"},
                {"count", arguments->count},
                {"run_count", arguments->run_count},
                {"qemu", arguments->qemu},
                {"json_file", arguments->json_file}});
    };
  });
}

}  // namespace

void add_bench(Program& program) {
  CLI::App* bench = program.app.add_subcommand("bench", "Measure this host");
  bench->require_subcommand(1);
  auto arguments = std::make_shared<ExecArguments>();
  CLI::App* verb = bench->add_subcommand("exec", "Round trips of a command, and moving a file");
  verb->footer(kExecFooter);
  verb->add_option("--count", arguments->count, "How often the command is run (default 200)")
      ->type_name("N")
      ->check(CLI::Range(10, 100000));
  verb->add_option("--file-mib", arguments->file_mib, "Size of the file (default 16)")
      ->type_name("MIB")
      ->check(CLI::Range(1, 64));
  verb->add_option("--file-count", arguments->file_count,
                   "How often the file is written and read (default 10)")
      ->type_name("N")
      ->check(CLI::Range(2, 1000));
  verb->add_option("--image", arguments->image, "Image of the machines (default core)")
      ->type_name("NAME|FILE");
  verb->add_option("--sdk", arguments->sdk,
                   "Folder in which @deno/sandbox is installed; without it the client is left out")
      ->type_name("DIR");
  verb->add_option("--node", arguments->node, "Node for the client (default node)")
      ->type_name("PROGRAM");
  verb->add_option("--json", arguments->json_file, "Write the results to this file")
      ->type_name("FILE");
  verb->callback([&program, arguments] {
    program.action = [&program, arguments] { return run_exec(program, *arguments); };
  });
  add_fork(program, *bench);
  add_boot(program, *bench);
  add_density(program, *bench);
  add_create(program, *bench);
  add_setup(program, *bench);
}

}  // namespace hutch::cli
