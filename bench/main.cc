// hutch-bench: what `hutch bench` runs where guests run. Its one argument is a JSON object with
// what cli/bench_verb.cc has read from the command line.
#include <fmt/format.h>
#include <signal.h>

#include <nlohmann/json.hpp>

#include "bench/boot.h"
#include "bench/create.h"
#include "bench/density.h"
#include "bench/exec.h"
#include "bench/fork.h"
#include "bench/interrupt.h"
#include "bench/setup.h"
#include "bench/setup_turn.h"

int main(int count, char** words) {
  constexpr int kExitFailure = 125, kExitGate = 1;
  if (count != 2) {
    fmt::print(stderr, "hutch: run: hutch bench exec\n");
    return 2;
  }
  ::signal(SIGPIPE, SIG_IGN);
  hutch::bench::catch_signals();
  try {
    nlohmann::json given = nlohmann::json::parse(words[1]);
    if (given.at("what") == "setup_turn")
      return hutch::bench::print_setup_turn(given.at("order"), given.at("handicap_ns"));
    if (given.at("what") == "setup") {
      hutch::bench::SetupOptions options;
      options.count = given.at("count");
      options.run_count = given.at("run_count");
      options.qemu = given.at("qemu");
      options.json_file = given.at("json_file");
      return hutch::bench::measure_setup(options) ? 0 : kExitGate;
    }
    if (given.at("what") == "boot") {
      hutch::bench::BootOptions options;
      options.count = given.at("count");
      options.memory_mib = given.at("memory_mib");
      options.image = given.at("image");
      options.peers = given.at("peers");
      options.json_file = given.at("json_file");
      return hutch::bench::measure_boot(options) ? 0 : kExitGate;
    }
    if (given.at("what") == "create") {
      hutch::bench::CreateOptions options;
      options.count = given.at("count");
      options.image = given.at("image");
      options.json_file = given.at("json_file");
      return hutch::bench::measure_create(options) ? 0 : kExitGate;
    }
    if (given.at("what") == "density") {
      hutch::bench::DensityOptions options;
      options.most = given.at("most");
      options.limit_mib = given.at("limit_mib");
      options.burst = given.at("burst");
      options.seconds = given.at("seconds");
      options.memory_mib = given.at("memory_mib");
      options.image = given.at("image");
      options.json_file = given.at("json_file");
      hutch::bench::measure_density(options);
      return 0;
    }
    if (given.at("what") == "fork") {
      hutch::bench::ForkOptions options;
      options.count = given.at("count");
      options.memory_mib = given.at("memory_mib");
      options.image = given.at("image");
      options.json_file = given.at("json_file");
      return hutch::bench::measure_fork(options) ? 0 : kExitGate;
    }
    hutch::bench::ExecOptions options;
    options.count = given.at("count");
    options.file_mib = given.at("file_mib");
    options.file_count = given.at("file_count");
    options.image = given.at("image");
    options.node = given.at("node");
    options.sdk = given.at("sdk");
    options.json_file = given.at("json_file");
    hutch::bench::measure_exec(options);
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "hutch: {}\n", error.what());
    int signal = hutch::bench::interrupting_signal();
    return signal == 0 ? kExitFailure : 128 + signal;
  }
}
