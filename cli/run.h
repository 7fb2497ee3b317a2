// What `hutch run` was asked for.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "cli/values.h"

namespace hutch::cli {

enum class TerminalChoice { kDetect, kAlways, kNever };

struct RunArguments {
  uint64_t memory = 768ull << 20;  // bytes
  uint32_t cpus = 2;
  std::vector<std::string> environment;
  std::string directory;
  std::string user;
  bool input = true;
  TerminalChoice terminal = TerminalChoice::kDetect;
  std::optional<std::chrono::nanoseconds> timeout;
  std::optional<std::chrono::nanoseconds> boot_timeout;
  std::vector<std::string> allow_net;  // hosts, or "all" alone; empty: no network device
  bool ipv6 = false;
  std::string network_log;  // file; empty: none
  std::vector<std::string> open_blocks;
  std::vector<std::string> dns_servers;
  std::string kernel;  // empty: ours
  std::string initramfs;
  std::string command_line;
  std::vector<DiskArgument> disks;
  std::string image = "core";
  bool console = false;
  bool entropy_device = false;
  bool timings = false;
  bool json = false;
  std::vector<std::string> command;
};

// Whether a command gets a terminal.
bool wants_terminal(TerminalChoice choice);

// Boots a machine here and runs the command in it; the exit code to pass on. `start_ns` is when the
// program started.
int run_here(const RunArguments& arguments, uint64_t start_ns);

}  // namespace hutch::cli
