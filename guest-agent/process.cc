#include "guest-agent/process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "base/log.h"
#include "base/sys.h"
#include "guest-agent/environment.h"

namespace hutch::agent {
namespace {

using namespace protocol::agent;  // NOLINT: the wire's names

struct Terminal {
  Fd master, slave;
};

Result<Terminal> make_terminal(uint16_t rows, uint16_t columns, uid_t owner) {
  Terminal terminal;
  terminal.master = TRY(open_file("/dev/ptmx", O_RDWR | O_NOCTTY));
  int unlocked = 0;
  if (::ioctl(terminal.master.get(), TIOCSPTLCK, &unlocked) < 0)
    return fail_errno(errno, "unlocking a terminal");
  // By descriptor, not by name: /dev/pts may have been mounted over.
  terminal.slave = Fd(::ioctl(terminal.master.get(), TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!terminal.slave) return fail_errno(errno, "opening a terminal");
  winsize size{.ws_row = rows, .ws_col = columns, .ws_xpixel = 0, .ws_ypixel = 0};
  if (::ioctl(terminal.master.get(), TIOCSWINSZ, &size) < 0)
    return fail_errno(errno, "setting a terminal's size");
  if (::fchown(terminal.slave.get(), owner, static_cast<gid_t>(-1)) < 0)
    return fail_errno(errno, "giving a terminal to its user");
  return terminal;
}

// What makes a request impossible; empty when nothing does.
std::string fault_of(const Spawn& request) {
  for (const std::string& argument : request.arguments) {
    if (!is_c_string(argument)) return "an argument holds a zero byte";
  }
  for (const std::string& variable : request.environment) {
    if (!is_c_string(variable)) return "an environment variable holds a zero byte";
    if (variable.find('=') == std::string::npos || variable.front() == '=')
      return fmt::format("\"{}\" is not an environment variable; write NAME=VALUE", variable);
  }
  if (!is_c_string(request.working_directory)) return "the working directory holds a zero byte";
  return "";
}

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> list;
  for (std::string& text : strings) list.push_back(text.data());
  list.push_back(nullptr);
  return list;
}

struct ExecuteFailure {
  int error_number = ENOENT;
  bool lacks_interpreter = false;
};

ExecuteFailure execute_file(const char* file, char** arguments, char** environment) {
  ::execve(file, arguments, environment);
  int error_number = errno;
  return {error_number, error_number == ENOENT && ::access(file, F_OK) == 0};
}

// In the child: execve(2), along PATH for a name without a slash. Returns the failure that says
// most: "permission denied" somewhere on the way counts more than "not found" at its end.
ExecuteFailure execute(const std::string& program, std::string_view path, char** arguments,
                       char** environment) {
  if (program.empty()) return {};
  if (program.find('/') != std::string::npos)
    return execute_file(program.c_str(), arguments, environment);
  ExecuteFailure telling;
  for (size_t at = 0; at <= path.size();) {
    size_t end = std::min(path.find(':', at), path.size());
    std::string file(path.substr(at, end - at));
    if (!file.empty()) file += '/';  // an empty element is the working directory
    file += program;
    ExecuteFailure failure = execute_file(file.c_str(), arguments, environment);
    bool goes_on = failure.error_number == EACCES || failure.error_number == ENOTDIR ||
                   (failure.error_number == ENOENT && !failure.lacks_interpreter);
    if (!goes_on) return failure;
    if (failure.error_number == EACCES) telling = failure;
    at = end + 1;
  }
  return telling;
}

[[noreturn]] void run_child(const Spawn& request, const Account& account,
                            const ChildDescriptors& descriptors) {
  set_up_child(descriptors);
  ::umask(request.file_mask);
  become(account);
  if (!request.working_directory.empty()) {
    if (::chdir(request.working_directory.c_str()) < 0)
      report_failure(FailureStage::kDirectory, errno);
  } else if (::chdir(account.home.c_str()) < 0 && ::chdir("/") < 0) {
    report_failure(FailureStage::kDirectory, errno);
  }
  std::vector<std::string> environment = make_environment(account, request);
  std::string_view path = kDefaultPath;
  for (const std::string& variable : environment) {
    if (variable.starts_with("PATH=")) path = std::string_view(variable).substr(5);
  }
  std::vector<std::string> arguments = request.arguments;
  if (request.agent_program) {
    ::execveat(kProgramDescriptor, "", pointers(arguments).data(), pointers(environment).data(),
               AT_EMPTY_PATH);
    report_failure(FailureStage::kExecute, errno);
  }
  ExecuteFailure failure = execute(request.arguments.front(), path, pointers(arguments).data(),
                                   pointers(environment).data());
  report_failure(FailureStage::kExecute, failure.error_number, failure.lacks_interpreter);
}

class Process : public Operation {
 public:
  Process(Services& services, Outbox& outbox, uint32_t channel)
      : services_(services), outbox_(outbox), channel_(channel) {}

  ~Process() override {
    if (process_ > 0) {
      services_.reaper.forget(process_);
      kill_group(SIGKILL);
    }
    services_.cgroups.discard(std::move(cgroup_));
  }

  Result<void> start(const Spawn& request);

  Result<void> input(std::vector<std::byte> bytes) override {
    if (!input_) return fail(fmt::format("channel {}: input for a process without", channel_));
    return input_->take(std::move(bytes));
  }
  Result<void> input_end() override {
    if (!input_) return fail(fmt::format("channel {}: input for a process without", channel_));
    return input_->end();
  }
  Result<void> signal(int number) override {
    if (!started_) {
      early_signals_.push_back(number);
    } else if (process_ > 0) {
      kill_group(number);
    }
    return {};
  }
  Result<void> resize(uint16_t rows, uint16_t columns) override {
    if (!terminal_) return {};
    winsize size{.ws_row = rows, .ws_col = columns, .ws_xpixel = 0, .ws_ypixel = 0};
    // EIO: it hung up, and nobody looks at its size any more.
    if (::ioctl(terminal_.get(), TIOCSWINSZ, &size) < 0 && errno != EIO)
      log_warning("channel {}: resizing its terminal: errno {}", channel_, errno);
    return {};
  }
  Result<void> credit(uint8_t stream, uint32_t bytes) override {
    OutputPump* pump = stream == 1 ? output_.get() : error_.get();
    if (pump == nullptr) return fail(fmt::format("channel {}: no stream {}", channel_, stream));
    pump->add_credit(bytes);
    return {};
  }
  void resume() override {
    output_->resume();
    if (error_) error_->resume();
  }
  bool is_service() const override {
    return is_service_ && started_ && process_ > 0 && !service_.expired() && input_ &&
           !input_->has_ended() && error_ && output_->is_open() && error_->is_open();
  }
  void adopt(uint32_t channel, const std::vector<std::string>& environment) override {
    channel_ = channel;
    output_->restart(channel);
    error_->restart(channel);
    input_->restart(channel);
    auto service = service_.lock();
    if (!service || environment.empty()) return;
    // At once: it may be let run next, and this is the first that it shall hear.
    service->send(FrameType::kRenew, 0, encode(Renew{environment}));
    service->flush();
  }

 private:
  void kill_group(int number) const {
    // ESRCH: the child has not come as far as to have a group, or all of it is gone.
    if (::kill(-process_, number) < 0 && ::kill(process_, number) < 0 && errno != ESRCH)
      log_warning("channel {}: sending signal {}: errno {}", channel_, number, errno);
  }
  void read_start_report();
  void on_exit(int status);
  void check_end();
  void give_up(const Report& report);

  Services& services_;
  Outbox& outbox_;
  uint32_t channel_;
  std::string program_, directory_, user_;  // for messages
  Cgroup cgroup_;
  pid_t process_ = 0;  // 0 once reaped, so that a number in other hands is never signalled
  Fd report_;
  Watch report_watch_;
  Fd terminal_;
  Fd input_sink_, output_source_, error_source_;  // until the start is confirmed
  std::unique_ptr<InputPump> input_;
  std::unique_ptr<OutputPump> output_, error_;
  std::vector<int> early_signals_;
  std::weak_ptr<Outbox> service_;  // to a process of the agent's own program
  bool is_service_ = false;
  bool started_ = false;
  bool failed_ = false;
  bool exited_ = false;
  bool told_exit_ = false;
  Exited exit_;
};

Result<void> Process::start(const Spawn& request) {
  program_ = request.arguments.front();
  directory_ = request.working_directory;
  std::string fault = fault_of(request);
  if (!fault.empty()) {
    failed_ = true;
    send_failure(outbox_, channel_, FailureStage::kRequest, EINVAL, std::move(fault));
    return {};
  }
  auto account = find_account(request.user);
  if (!account) {
    failed_ = true;
    send_failure(outbox_, channel_, FailureStage::kUser, account.error().number,
                 account.error().message);
    return {};
  }
  user_ = account->name;

  cgroup_ = TRY(services_.cgroups.make());
  Pipe report = TRY(make_pipe());
  TRY(set_nonblocking(report.reader.get()));
  ChildDescriptors descriptors{.report = report.writer.get()};
  auto on_progress = [this] { check_end(); };
  output_ = std::make_unique<OutputPump>(services_.loop, outbox_, channel_, 1, true, on_progress);
  std::pair<Fd, Fd> service;
  if (request.agent_program) {
    if (!services_.program) return fail("the agent does not know its own program");
    service = TRY(socket_pair(SOCK_STREAM));
    descriptors.service = service.second.get();
    descriptors.program = services_.program.get();
  }
  Pipe in, out, err;
  Terminal terminal;
  if (request.open_input) input_ = std::make_unique<InputPump>(services_.loop, outbox_, channel_);
  if (request.terminal) {
    terminal = TRY(make_terminal(request.rows, request.columns, account->user));
    descriptors.terminal = true;
    descriptors.output = descriptors.error = terminal.slave.get();
    if (input_) {
      descriptors.input = terminal.slave.get();
      in.writer = TRY(terminal.master.duplicate());
    }
    output_source_ = TRY(terminal.master.duplicate());
    terminal_ = std::move(terminal.master);
  } else {
    error_ = std::make_unique<OutputPump>(services_.loop, outbox_, channel_, 2, true, on_progress);
    out = TRY(make_pipe());
    err = TRY(make_pipe());
    descriptors.output = out.writer.get();
    descriptors.error = err.writer.get();
    output_source_ = std::move(out.reader);
    error_source_ = std::move(err.reader);
    if (input_) {
      in = TRY(make_pipe());
      descriptors.input = in.reader.get();
    }
  }

  pid_t process = TRY(fork_child(cgroup_.folder()));
  if (process == 0) run_child(request, *account, descriptors);
  process_ = process;
  services_.reaper.watch(process, [this](int status) { on_exit(status); });
  report_ = std::move(report.reader);
  report_watch_ =
      TRY(services_.loop.watch(report_.get(), EPOLLIN, [this](uint32_t) { read_start_report(); }));
  input_sink_ = std::move(in.writer);
  if (service.first) {
    service_ = TRY(services_.serve(std::move(service.first), account->name));
    is_service_ = program_ == kAdoptedMode;
  }
  return {};
}

void Process::give_up(const Report& report) {
  failed_ = true;
  int error_number = report.error_number;
  std::string message;
  switch (report.stage) {
    case FailureStage::kDirectory:
      message = with_errno(error_number, "changing to the working directory " + directory_);
      break;
    case FailureStage::kUser:
      message = with_errno(error_number, "becoming user " + user_);
      break;
    case FailureStage::kExecute:
      if (report.lacks_interpreter) {
        message = fmt::format("executing {}: its interpreter is missing", program_);
      } else if (error_number == ENOENT && program_.find('/') == std::string::npos) {
        message = fmt::format("{} is not in PATH", program_);
      } else {
        message = with_errno(error_number, "executing " + program_);
      }
      break;
    default:
      message = with_errno(error_number, "preparing the process");
  }
  send_failure(outbox_, channel_, report.stage, error_number, std::move(message));
}

// The report pipe ends without a word when exec has succeeded.
void Process::read_start_report() {
  bool ended = false;
  std::optional<Report> report = read_report(report_.get(), ended);
  if (!report && !ended) return;
  report_watch_.reset();
  report_.reset();
  if (report) {
    give_up(*report);
    return;
  }
  started_ = true;
  outbox_.send(FrameType::kStarted, channel_, encode(Started{static_cast<uint32_t>(process_)}));
  for (int number : early_signals_) {
    if (!exited_) kill_group(number);
  }
  bool is_terminal = terminal_.is_open();
  auto pumped = output_->start(std::move(output_source_), is_terminal);
  if (pumped && error_) pumped = error_->start(std::move(error_source_), false);
  if (pumped && input_) pumped = input_->start(std::move(input_sink_), is_terminal);
  if (!pumped) log_error("channel {}: {}", channel_, pumped.error().text());
}

void Process::on_exit(int status) {
  exited_ = true;
  if (!started_ && !failed_) read_start_report();
  process_ = 0;
  if (failed_) return;
  exit_.signaled = WIFSIGNALED(status);
  exit_.value = static_cast<uint32_t>(exit_.signaled ? WTERMSIG(status) : WEXITSTATUS(status));
  exit_.out_of_memory = cgroup_.was_out_of_memory();
  output_->mark_exit();
  if (error_) error_->mark_exit();
  check_end();
}

void Process::check_end() {
  if (!exited_ || failed_) return;
  if (!told_exit_ && output_->is_drained() && (!error_ || error_->is_drained())) {
    told_exit_ = true;
    outbox_.send(FrameType::kExited, channel_, encode(exit_));
  }
  if (told_exit_ && !output_->is_open() && (!error_ || !error_->is_open()))
    outbox_.finish(channel_);
}

}  // namespace

std::string with_errno(int error_number, std::string message) {
  return fail_errno(error_number, std::move(message)).value().message;
}

bool is_c_string(std::string_view text) {
  return text.find('\0') == std::string_view::npos;
}

void send_failure(Outbox& outbox, uint32_t channel, FailureStage stage, int error_number,
                  std::string message) {
  outbox.send(FrameType::kFailed, channel,
              encode(Failed{stage, static_cast<uint32_t>(error_number), std::move(message)}));
  outbox.finish(channel);
}

std::unique_ptr<Operation> start_process(Services& services, Outbox& outbox, uint32_t channel,
                                         const Spawn& request) {
  auto process = std::make_unique<Process>(services, outbox, channel);
  auto started = process->start(request);
  if (!started)
    send_failure(outbox, channel, FailureStage::kRequest, started.error().number,
                 started.error().text());
  return process;
}

}  // namespace hutch::agent
