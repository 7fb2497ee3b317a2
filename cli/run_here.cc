// `hutch run` on this host's KVM.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>

#include "base/sys.h"
#include "cli/failure.h"
#include "cli/handles.h"
#include "cli/relay.h"
#include "cli/run.h"
#include "cli/share.h"
#include "cli/syscall_counter.h"
#include "cli/timings.h"

namespace hutch::cli {
namespace {

// With --console the kernel speaks on a full serial console.
constexpr const char* kConsoleWords = "loglevel=7 panic=-1 console=ttyS0";

constexpr uint64_t kSecond = 1'000'000'000;
// A guest that is asked to power off flushes its disks first.
constexpr uint64_t kShutdownTime = 20 * kSecond;

std::string existing_file(const std::string& path, const char* what) {
  if (::access(path.c_str(), R_OK) == 0) return path;
  throw Failure(
      fail_errno(errno, fmt::format("{} {}", what, path), "check the path and its rights").value(),
      errno == ENOENT ? "not_found" : "permission");
}

std::vector<const char*> pointers(const std::vector<std::string>& words) {
  std::vector<const char*> list;
  for (const std::string& word : words) list.push_back(word.c_str());
  return list;
}

// One machine and the conversation with it.
class Run {
 public:
  Run(const RunArguments& arguments, uint64_t start_ns) : arguments_(arguments) {
    timings_.start_ns = start_ns;
  }
  int run();

 private:
  bool has_command() const { return !arguments_.command.empty(); }
  void start(ConsoleStreams& console);
  std::string command_line() const;
  void handle(const hutch_event& event);
  [[noreturn]] void fail_ended(const hutch_event& event) const;
  int run_command(Relay& relay);
  void collect_timings(Relay& relay);
  void end_machine(Relay& relay);
  void report() const;

  const RunArguments& arguments_;
  Signals signals_;
  std::unique_ptr<SyscallCounter> syscall_counter_;
  VmHandle vm_;
  Timings timings_;
  std::optional<Failure> lost_;  // the agent is gone, and with it the command
  bool ending_ = false;          // we end it: its end is no failure
  bool ended_ = false;
  bool reported_ = false;
};

std::string Run::command_line() const {
  std::string words = arguments_.console ? kConsoleWords : artefacts::kKernelWords;
  if (has_command()) words += std::string(" ") + artefacts::kRootWords;
  if (!arguments_.command_line.empty()) words += " " + arguments_.command_line;
  return words;
}

void Run::start(ConsoleStreams& console) {
  // Without a command a foreign kernel gets what was named, and nothing of ours.
  std::string kernel = arguments_.kernel.empty() ? find_shared(kKernelFile)
                                                 : existing_file(arguments_.kernel, "the kernel");
  std::string initramfs;
  if (!arguments_.initramfs.empty()) {
    initramfs = existing_file(arguments_.initramfs, "the initramfs");
  } else if (has_command()) {
    initramfs = find_shared(kInitramfsFile);
  }
  std::vector<std::string> paths;
  std::vector<hutch_disk> disks;
  if (has_command()) {
    paths = {find_image(arguments_.image), find_shared(kLayerFile)};
    disks.resize(2);
    disks[0].read_only = 1;
    disks[0].id = "root";
    disks[1].layered = 1;
    disks[1].id = "layer";
  }
  std::vector<std::string> ids;
  for (const DiskArgument& disk : arguments_.disks) {
    paths.push_back(existing_file(disk.path, "the disk"));
    disks.emplace_back().read_only = disk.read_only;
    ids.push_back(fmt::format("disk{}", ids.size()));
  }
  for (size_t i = 0; i < ids.size(); i++) disks[disks.size() - ids.size() + i].id = ids[i].c_str();
  std::vector<const hutch_disk*> disk_pointers;
  for (size_t i = 0; i < disks.size(); i++) {
    disks[i].size = sizeof(hutch_disk);
    disks[i].path = paths[i].c_str();
    disk_pointers.push_back(&disks[i]);
  }

  std::string words = command_line(), scratch = artefacts::scratch_folder(),
              vmm = find_program(kVmmProgram);
  hutch_vm_options options{};
  options.size = sizeof options;
  options.cpus = arguments_.cpus;
  options.memory = arguments_.memory;
  options.kernel = kernel.c_str();
  options.initramfs = initramfs.empty() ? nullptr : initramfs.c_str();
  options.command_line = words.c_str();
  options.entropy_device = arguments_.entropy_device;
  options.disks = disk_pointers.data();
  options.disk_count = disk_pointers.size();
  options.scratch_directory = scratch.c_str();
  options.no_agent = !has_command();
  options.agent_timeout_ms = static_cast<uint32_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(
          arguments_.boot_timeout.value_or(std::chrono::seconds(artefacts::boot_timeout_s())))
          .count());
  options.host_name = "hutch";
  options.log_fd = STDERR_FILENO;
  options.vmm_path = vmm.c_str();
  options.end_with_thread = 1;

  std::vector<const char*> hosts, blocks, servers;
  std::string broker;
  Fd network_log;
  hutch_network network{};
  if (!arguments_.allow_net.empty()) {
    bool allows_all = arguments_.allow_net == std::vector<std::string>{"all"};
    broker = find_program(kBrokerProgram);
    network.size = sizeof network;
    network.allow_all = allows_all;
    network.ipv6 = arguments_.ipv6;
    if (!allows_all) hosts = pointers(arguments_.allow_net);
    network.hosts = hosts.data();
    network.host_count = hosts.size();
    blocks = pointers(arguments_.open_blocks);
    network.opened_blocks = blocks.data();
    network.opened_block_count = blocks.size();
    servers = pointers(arguments_.dns_servers);
    network.dns_servers = servers.data();
    network.dns_server_count = servers.size();
    network.broker_path = broker.c_str();
    if (!arguments_.network_log.empty()) {
      network_log =
          value_or_throw(open_file(arguments_.network_log, O_RDWR | O_APPEND | O_CREAT, 0600));
      network.decision_log_fd = network_log.get();
    }
    options.network = &network;
  }

  Fd guest_output, guest_input;
  if (arguments_.console) {
    // Pipes in between: the VMM must not share the mode of our own streams.
    auto [output, guest_writes] = value_or_throw(socket_pair(SOCK_STREAM));
    value_or_throw(set_nonblocking(output.get()));
    console.output = std::move(output);
    guest_output = std::move(guest_writes);
    options.console_output_fd = guest_output.get();
    if (!has_command() && arguments_.input) {
      auto [input, guest_reads] = value_or_throw(socket_pair(SOCK_STREAM));
      value_or_throw(set_nonblocking(input.get()));
      console.input = std::move(input);
      guest_input = std::move(guest_reads);
      options.console_input_fd = guest_input.get();
    }
  }
  if (arguments_.timings) syscall_counter_ = SyscallCounter::create();
  hutch_vm* vm = nullptr;
  hutch_error* error = nullptr;
  if (hutch_vm_start(&options, &vm, &error) != HUTCH_OK) throw_error(error);
  vm_.reset(vm);
}

void Run::handle(const hutch_event& event) {
  switch (event.kind) {
    case HUTCH_EVENT_MARK:
      timings_.set_mark(event);
      break;
    case HUTCH_EVENT_REPORT:
      timings_.set_counters(event);
      reported_ = true;
      break;
    case HUTCH_EVENT_AGENT_LOST:
      if (ending_) break;
      // The end of the machine brings its console.
      lost_ = Failure("agent_lost", event.message, event.remedy);
      if (hutch_vm_stop(vm_.get(), nullptr) != HUTCH_OK) throw *lost_;
      break;
    case HUTCH_EVENT_ENDED:
      ended_ = true;
      timings_.gone_ns = monotonic_ns();
      if (lost_) throw std::move(*lost_).with_console(event.console_tail);
      if (!ending_) fail_ended(event);
      break;
    default:
      break;
  }
}

void Run::fail_ended(const hutch_event& event) const {
  std::string message = event.message;
  if (message.empty())
    message = fmt::format("the machine ended: {}", hutch_reason_name(event.reason));
  throw Failure(hutch_reason_name(event.reason), message, event.remedy)
      .with_console(event.console_tail);
}

int Run::run() {
  ConsoleStreams console;
  start(console);
  RelayOptions options;
  options.console = std::move(console);
  if (arguments_.timeout) options.timeout_ns = static_cast<uint64_t>(arguments_.timeout->count());
  options.escape_help = "the console of the machine; Ctrl-] ends it";
  bool guest_ended = false;
  Relay relay(EventSource(vm_.get()), signals_, std::move(options), [&](const hutch_event& event) {
    // On a console alone, power-off and reset are how a guest is meant to end.
    if (event.kind == HUTCH_EVENT_ENDED && !has_command() &&
        (event.reason == HUTCH_REASON_POWER_OFF || event.reason == HUTCH_REASON_RESET)) {
      guest_ended = ended_ = true;
      timings_.gone_ns = monotonic_ns();
      relay.end(0);
      return;
    }
    handle(event);
  });
  int exit_code = 0;
  if (has_command()) {
    exit_code = run_command(relay);
  } else {
    exit_code = relay.run_console();
  }
  if (arguments_.timings && !ended_) collect_timings(relay);
  if (!ended_) end_machine(relay);
  relay.restore_terminal();
  if (relay.deadline_passed())
    Failure(kExitDeadline, "deadline", "the command did not end within its time limit",
            "give it more time with --timeout")
        .print(arguments_.json);
  if (arguments_.timings) report();
  return exit_code;
}

int Run::run_command(Relay& relay) {
  Command command;
  command.arguments = arguments_.command;
  command.environment = arguments_.environment;
  command.directory = arguments_.directory;
  command.user = arguments_.user;
  command.terminal = wants_terminal(arguments_.terminal);
  command.input = arguments_.input;
  const char* terminal_type = std::getenv("TERM");
  if (command.terminal && terminal_type != nullptr)
    command.environment.insert(command.environment.begin(), fmt::format("TERM={}", terminal_type));
  return relay.run(hutch_vm_agent(vm_.get()), command);
}

void Run::collect_timings(Relay& relay) {
  timings_.reply_ns = relay.replied_ns();
  hutch_error* error = nullptr;
  if (hutch_vm_query(vm_.get(), &error) != HUTCH_OK) throw_error(error);
  relay.wait_until([&] { return reported_; }, 2 * kSecond);
  timings_.vmm_kib = vmm_resident_kib(hutch_vm_process_id(vm_.get()), timings_.counters);
  if (syscall_counter_ && timings_.first_run_ns != 0)
    timings_.syscalls_until_first_run = syscall_counter_->count_until(timings_.first_run_ns);
}

void Run::end_machine(Relay& relay) {
  ending_ = true;
  bool writes_disks = false;
  for (const DiskArgument& disk : arguments_.disks) writes_disks |= !disk.read_only;
  hutch_error* error = nullptr;
  if (has_command() && writes_disks && !relay.was_forced()) {
    if (hutch_agent_shutdown(hutch_vm_agent(vm_.get()), 0, &error) != HUTCH_OK) throw_error(error);
    relay.wait_until([&] { return ended_; }, kShutdownTime);
    if (!ended_) notice("the guest did not power itself off in time; its disks may lack data");
  }
  if (!ended_ && arguments_.console) {
    // What the guest has written last is still on its way.
    if (hutch_vm_stop(vm_.get(), &error) != HUTCH_OK) throw_error(error);
    relay.wait_until([&] { return ended_; }, 4 * kSecond);
  }
  vm_.reset();
  if (!ended_) timings_.gone_ns = monotonic_ns();
}

void Run::report() const {
  std::string text = arguments_.json ? timings_.json() + "\n" : timings_.text();
  value_or_throw(write_all(STDERR_FILENO, std::as_bytes(std::span(text))));
}

}  // namespace

bool wants_terminal(TerminalChoice choice) {
  if (choice != TerminalChoice::kDetect) return choice == TerminalChoice::kAlways;
  return is_foreground_terminal(STDIN_FILENO) && ::isatty(STDOUT_FILENO) == 1;
}

int run_here(const RunArguments& arguments, uint64_t start_ns) {
  Run run(arguments, start_ns);
  return run.run();
}

}  // namespace hutch::cli
