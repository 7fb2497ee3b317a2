// The emulated machine: a Linux host with a working KVM, emulated in software by QEMU, that stands
// in where the real host's KVM cannot run guests.
//
// Its state lies in the runtime folder under `machine/`: the QEMU process and when it began (so
// that a recycled process id is never taken for it), the port of its agent on 127.0.0.1, the random
// token that the agent asks for, its console, and the socket of its monitor. The machine sees the
// host's file system at the same paths over 9p.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "cli/handles.h"

namespace hutch::cli {

struct MachineSize {
  uint64_t memory = 4ull << 30;  // bytes
  uint32_t cpus = 1;             // one thread emulates them all: more are no faster
  // Its clock advances by a nanosecond with each instruction, and jumps over waits, so that the
  // same work takes the same time whatever the host does. One CPU.
  bool virtual_time = false;
};

struct MachineStatus {
  enum class State { kAbsent, kRunning, kDead } state = State::kAbsent;
  pid_t process_id = 0;
  uint16_t port = 0;
  uint64_t memory = 0;
  uint32_t cpus = 0;
  bool virtual_time = false;
  std::string folder;
};

MachineStatus machine_status();
// Starts it, or finds it started: idempotent, and safe when several do it at a time. Shows progress
// on standard error. Throws a Failure with the end of the console when it does not come up, and
// when one runs whose clock does not go by virtual time as asked for.
void start_machine(const MachineSize& size, std::chrono::nanoseconds timeout);
// Lets it power itself off, then ends it by force. False: it was not running.
bool stop_machine();
// Stops it and removes its state. False: there was none.
bool remove_machine();
// A connection to its agent. Throws a Failure, with the end of its console, when it has died.
AgentHandle connect_to_machine();

// Runs a command in the running machine with the standard streams, signals, working directory and
// environment of this process; the exit code to pass on.
int execute_in_machine(const std::vector<std::string>& arguments, bool terminal, bool input,
                       const std::vector<std::string>& extra_environment = {});

// In the machine: leads standard error to where the hutch outside has asked for it
// (run_in_machine).
void take_messages_variable();

// `hutch WORDS...` in the machine, started when needed; says so in one line that gives `reason`.
// `started` is called once the machine runs.
int run_in_machine(const std::vector<std::string>& words, bool terminal, bool input,
                   const std::string& reason, const std::function<void()>& started = {});

}  // namespace hutch::cli
