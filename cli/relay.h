// Relay: connects one process in a guest with this program's standard streams, signals and
// terminal, until the process has ended and all its output is written.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "cli/failure.h"
#include "cli/handles.h"
#include "cli/signals.h"
#include "cli/sink.h"
#include "cli/terminal.h"

namespace hutch::cli {

// Where events come from: a machine of ours, or an agent elsewhere.
class EventSource {
 public:
  explicit EventSource(hutch_vm* vm) : vm_(vm) {}
  explicit EventSource(hutch_agent* agent) : agent_(agent) {}
  int fd() const;
  // The next event, or null when there is none now.
  EventHandle next() const;

 private:
  hutch_vm* vm_ = nullptr;
  hutch_agent* agent_ = nullptr;
};

struct Command {
  std::vector<std::string> arguments;
  std::vector<std::string> environment;
  std::string directory;
  std::string user;
  bool terminal = false;
  bool input = true;
};

// The serial console of a machine beside, or instead of, a process.
struct ConsoleStreams {
  Fd output;  // what the guest wrote is read here
  Fd input;   // and what it gets is written here; closed: nothing
};

struct RelayOptions {
  std::optional<uint64_t> timeout_ns;  // from the start of run()
  // After a second SIGINT or SIGTERM: end at once (a machine of ours), or let the other side, which
  // gets the signal too, do it and wait for at most this long.
  uint64_t second_signal_grace_ns = 0;
  ConsoleStreams console;
  std::string escape_help;  // shown once when the console is interactive
};

class Relay {
 public:
  // Gets the events that are not of the process. It may throw a Failure.
  using OtherEvent = std::function<void(const hutch_event&)>;

  Relay(EventSource source, Signals& signals, RelayOptions options, OtherEvent other);

  // Starts `command`, and returns the exit code to pass on. Throws a Failure when it cannot run.
  int run(hutch_agent* agent, const Command& command);
  // Shows the console, with input, until `other` throws or a signal or Ctrl-] ends it; returns the
  // exit code.
  int run_console();

  // Waits for up to `limit_ns` for events until `done` says so; other events than of the process
  // only. Signals still end the wait.
  void wait_until(const std::function<bool()>& done, uint64_t limit_ns);
  // Ends run_console() with this exit code.
  void end(int exit_code) { exit_code_ = exit_code; }
  // The end did not wait for the process: a second signal or a deadline decided.
  bool was_forced() const { return forced_; }
  // The command was ended because it ran longer than its timeout.
  bool deadline_passed() const { return kill_exit_code_ == kExitDeadline; }
  // Nanoseconds of CLOCK_MONOTONIC at which the exit of the process arrived.
  uint64_t replied_ns() const { return replied_ns_; }
  // Leaves raw mode, so that what is printed next looks right.
  void restore_terminal() { raw_.leave(); }

 private:
  enum class Wanted { kProcess, kConsole };
  int loop(Wanted wanted);
  void take_events();
  void handle_event(EventHandle event);
  void handle_failed(const hutch_event& event);
  void handle_signals();
  void end_by_signal(int number);
  void force_end(int exit_code);
  void read_input();
  void send_input();
  void read_console();
  void write_console_input();
  void tell_broken();
  void check_deadlines();
  bool wants_input() const;
  bool is_done() const;
  void signal_process(int number);

  EventSource source_;
  Signals& signals_;
  RelayOptions options_;
  OtherEvent other_;
  Sink output_, errors_;
  RawMode raw_;
  hutch_agent* agent_ = nullptr;
  hutch_task task_ = 0;
  std::string program_;
  bool terminal_ = false;
  bool started_ = false;
  bool input_open_ = false;
  bool input_is_terminal_ = false;
  std::vector<std::byte> input_;  // read, but not taken yet
  bool input_blocked_ = false;    // until WRITABLE
  bool told_broken_ = false;
  int endings_ = 0;  // SIGINT and SIGTERM so far
  std::optional<int> exit_code_;
  bool forced_ = false;  // the end does not wait for output to be written
  uint64_t replied_ns_ = 0;
  uint64_t deadline_ns_ = 0;       // of the command; 0: none
  uint64_t kill_deadline_ns_ = 0;  // after it was asked to end
  int kill_exit_code_ = 0;
};

}  // namespace hutch::cli
