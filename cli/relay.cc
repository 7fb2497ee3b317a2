#include "cli/relay.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>

#include "base/sys.h"
#include "cli/failure.h"

namespace hutch::cli {
namespace {

constexpr size_t kReadSize = 64 * 1024;
// Console bytes that wait for a slow standard error; the VMM drops what is beyond.
constexpr size_t kConsoleBacklog = 256 * 1024;
constexpr uint64_t kSecond = 1'000'000'000;
// Between SIGTERM at the deadline and the end by force.
constexpr uint64_t kDeadlineGrace = 2 * kSecond;
constexpr char kEscape = 0x1d;  // Ctrl-]

std::vector<const char*> pointers(const std::vector<std::string>& list) {
  std::vector<const char*> result;
  for (const std::string& text : list) result.push_back(text.c_str());
  result.push_back(nullptr);
  return result;
}

}  // namespace

int EventSource::fd() const {
  return vm_ != nullptr ? hutch_vm_event_fd(vm_) : hutch_agent_event_fd(agent_);
}

EventHandle EventSource::next() const {
  hutch_event* event = nullptr;
  hutch_error* error = nullptr;
  int code = vm_ != nullptr ? hutch_vm_next_event(vm_, &event, &error)
                            : hutch_agent_next_event(agent_, &event, &error);
  if (code != HUTCH_OK) throw_error(error);
  return EventHandle(event);
}

Relay::Relay(EventSource source, Signals& signals, RelayOptions options, OtherEvent other)
    : source_(source),
      signals_(signals),
      options_(std::move(options)),
      other_(std::move(other)),
      output_(STDOUT_FILENO),
      errors_(STDERR_FILENO),
      input_is_terminal_(::isatty(STDIN_FILENO) == 1) {}

int Relay::run(hutch_agent* agent, const Command& command) {
  agent_ = agent;
  program_ = command.arguments.at(0);
  terminal_ = command.terminal;
  input_open_ = command.input;
  WindowSize size = window_size();
  std::vector<const char*> arguments = pointers(command.arguments);
  std::vector<const char*> environment = pointers(command.environment);
  hutch_process_options options{};
  options.size = sizeof options;
  options.arguments = arguments.data();
  options.environment = environment.data();
  options.working_directory = command.directory.c_str();
  options.user = command.user.c_str();
  options.terminal = command.terminal;
  options.open_input = command.input;
  options.rows = size.rows;
  options.columns = size.columns;
  hutch_error* error = nullptr;
  if (hutch_process_start(agent, &options, &task_, &error) != HUTCH_OK) throw_error(error);
  if (options_.timeout_ns) deadline_ns_ = monotonic_ns() + *options_.timeout_ns;
  return loop(Wanted::kProcess);
}

int Relay::run_console() {
  input_open_ = options_.console.input.is_open();
  if (input_open_) {
    raw_ = RawMode::enter();
    if (raw_.is_active() && !options_.escape_help.empty()) notice(options_.escape_help + "\r");
  }
  if (options_.timeout_ns) deadline_ns_ = monotonic_ns() + *options_.timeout_ns;
  return loop(Wanted::kConsole);
}

bool Relay::is_done() const {
  return exit_code_ && (forced_ || (output_.is_empty() && errors_.is_empty()));
}

bool Relay::wants_input() const {
  if (!input_open_ || !input_.empty() || input_blocked_ || exit_code_) return false;
  if (task_ != 0 && !started_) return false;
  // Reading a terminal from its background would stop us.
  return !input_is_terminal_ || is_foreground_terminal(STDIN_FILENO);
}

int Relay::loop(Wanted wanted) {
  bool is_process = wanted == Wanted::kProcess;
  while (!is_done()) {
    std::array<pollfd, 7> polls;
    size_t count = 0;
    auto add = [&](int fd, short events) {
      polls[count] = {.fd = fd, .events = events, .revents = 0};
      return count++;
    };
    size_t source = add(source_.fd(), POLLIN);
    size_t signals = add(signals_.fd(), POLLIN);
    size_t input = add(wants_input() ? STDIN_FILENO : -1, POLLIN);
    Sink& console_sink = is_process ? errors_ : output_;
    bool reads_console = options_.console.output && console_sink.queued_bytes() < kConsoleBacklog;
    size_t console = add(reads_console ? options_.console.output.get() : -1, POLLIN);
    add(output_.is_empty() ? -1 : output_.poll_fd(), POLLOUT);
    add(errors_.is_empty() ? -1 : errors_.poll_fd(), POLLOUT);
    bool writes_console = !is_process && !input_.empty();
    add(writes_console ? options_.console.input.get() : -1, POLLOUT);

    int timeout = -1;
    for (uint64_t due : {deadline_ns_, kill_deadline_ns_}) {
      if (due == 0) continue;
      uint64_t now = monotonic_ns();
      int wait =
          due > now ? static_cast<int>(std::min<uint64_t>((due - now) / 1'000'000 + 1, 60'000)) : 0;
      timeout = timeout < 0 ? wait : std::min(timeout, wait);
    }
    if (::poll(polls.data(), count, timeout) < 0 && errno != EINTR)
      throw Failure(fail_errno(errno, "waiting for events").value());

    if (polls[signals].revents != 0) handle_signals();
    if (polls[source].revents != 0) take_events();
    if (polls[console].revents != 0) read_console();
    if (polls[input].revents != 0 && wants_input()) read_input();
    if (writes_console) write_console_input();
    output_.flush();
    errors_.flush();
    if (is_process && output_.is_broken()) tell_broken();
    check_deadlines();
  }
  return *exit_code_;
}

void Relay::wait_until(const std::function<bool()>& done, uint64_t limit_ns) {
  uint64_t end = monotonic_ns() + limit_ns;
  for (;;) {
    take_events();
    if (options_.console.output) read_console();
    output_.flush();
    errors_.flush();
    uint64_t now = monotonic_ns();
    if (done() || now >= end) return;
    std::array<pollfd, 3> polls{
        pollfd{.fd = source_.fd(), .events = POLLIN, .revents = 0},
        pollfd{.fd = signals_.fd(), .events = POLLIN, .revents = 0},
        pollfd{.fd = options_.console.output.get(), .events = POLLIN, .revents = 0}};
    ::poll(polls.data(), polls.size(), static_cast<int>((end - now) / 1'000'000 + 1));
    while (std::optional<int> number = signals_.take())
      if (*number == SIGINT || *number == SIGTERM) return;
  }
}

void Relay::take_events() {
  while (EventHandle event = source_.next()) {
    if (event->task == 0) {
      other_(*event);
    } else if (event->task == task_) {
      handle_event(std::move(event));
    }
  }
}

void Relay::handle_event(EventHandle event) {
  switch (event->kind) {
    case HUTCH_EVENT_STARTED:
      started_ = true;
      if (terminal_) raw_ = RawMode::enter();
      break;
    case HUTCH_EVENT_OUTPUT: {
      Sink& sink = event->stream == 1 ? output_ : errors_;
      sink.push(std::move(event));
      sink.flush();
      break;
    }
    case HUTCH_EVENT_WRITABLE:
      input_blocked_ = false;
      send_input();
      break;
    case HUTCH_EVENT_FAILED:
      handle_failed(*event);
      break;
    case HUTCH_EVENT_EXITED:
      replied_ns_ = monotonic_ns();
      // A deadline or a second signal has already decided.
      if (!exit_code_)
        exit_code_ = kill_exit_code_ != 0 ? kill_exit_code_
                     : event->signaled    ? kExitSignal + static_cast<int>(event->value)
                                          : static_cast<int>(event->value);
      if (event->out_of_memory)
        notice("the guest ran out of memory and its kernel killed a process (use --memory)");
      deadline_ns_ = kill_deadline_ns_ = 0;
      break;
    default:
      break;
  }
}

void Relay::handle_failed(const hutch_event& event) {
  replied_ns_ = monotonic_ns();
  std::string why = event.message;
  switch (event.stage) {
    case HUTCH_STAGE_EXECUTE:
      if (event.error_number == ENOENT || event.error_number == ENOTDIR)
        throw Failure(kExitNotFound, "command_not_found",
                      fmt::format("{}: command not found", program_),
                      "give a path, or a program that is in the PATH of the guest");
      throw Failure(kExitNotExecutable, "not_executable",
                    fmt::format("{}: cannot be executed: {}", program_, why),
                    "make it executable and built for the guest");
    case HUTCH_STAGE_USER:
      throw Failure("user", why, "name a user that the guest has, such as --user app");
    case HUTCH_STAGE_DIRECTORY:
      throw Failure("directory", why, "name a folder that the guest has with --workdir");
    default:
      throw Failure("request", why);
  }
}

void Relay::signal_process(int number) {
  // A process that has just ended takes no signal, and its exit is on its way.
  hutch_error* error = nullptr;
  if (hutch_process_signal(agent_, task_, number, &error) != HUTCH_OK) hutch_error_free(error);
}

void Relay::force_end(int exit_code) {
  exit_code_ = exit_code;
  forced_ = true;
}

void Relay::end_by_signal(int number) {
  bool waits = options_.second_signal_grace_ns != 0 && started_ && !exit_code_;
  if (waits && kill_deadline_ns_ == 0) {
    signal_process(number);
    kill_deadline_ns_ = monotonic_ns() + options_.second_signal_grace_ns;
    return;
  }
  force_end(kExitSignal + number);
}

void Relay::handle_signals() {
  while (std::optional<int> number = signals_.take()) {
    switch (*number) {
      case SIGWINCH:
        if (terminal_ && task_ != 0 && !exit_code_) {
          WindowSize size = window_size();
          hutch_error* error = nullptr;
          if (hutch_process_resize(agent_, task_, size.rows, size.columns, &error) != HUTCH_OK)
            hutch_error_free(error);
        }
        break;
      case SIGCONT:
        // A shell may have changed the terminal while we were stopped.
        if (raw_.is_active()) {
          raw_.leave();
          raw_ = RawMode::enter();
        }
        break;
      case SIGINT:
      case SIGTERM:
        endings_++;
        if (!started_ || exit_code_ || endings_ > 1) {
          end_by_signal(*number);
        } else {
          signal_process(*number);
        }
        break;
      case SIGPIPE:
        // From a write of ours, or from the hutch that runs this one in the emulated machine.
        tell_broken();
        break;
      case SIGHUP:
      case SIGQUIT:
        if (!started_ || exit_code_) {
          end_by_signal(*number);
        } else {
          signal_process(*number);
        }
        break;
      default:
        if (started_) signal_process(*number);
        break;
    }
  }
}

void Relay::read_input() {
  input_.resize(kReadSize);
  ssize_t count = ::read(STDIN_FILENO, input_.data(), input_.size());
  // EIO: the terminal is gone, or we are in its background.
  if (count < 0 && errno != EINTR && errno != EAGAIN && errno != EIO && errno != EISDIR &&
      errno != EBADF)
    throw Failure(fail_errno(errno, "reading standard input").value());
  if (count < 0 && (errno == EINTR || errno == EAGAIN)) {
    input_.clear();
    return;
  }
  input_.resize(count > 0 ? static_cast<size_t>(count) : 0);
  if (count <= 0) {
    input_open_ = false;
    if (task_ != 0) {
      hutch_error* error = nullptr;
      if (hutch_task_close_input(agent_, task_, &error) != HUTCH_OK) hutch_error_free(error);
    } else {
      options_.console.input.reset();
    }
    return;
  }
  if (task_ != 0) {
    send_input();
    return;
  }
  for (std::byte byte : input_)
    if (raw_.is_active() && static_cast<char>(byte) == kEscape) force_end(0);
}

void Relay::send_input() {
  if (input_.empty()) return;
  size_t taken = 0;
  hutch_error* error = nullptr;
  if (hutch_task_write(agent_, task_, input_.data(), input_.size(), &taken, &error) != HUTCH_OK) {
    // The process is over, or its input is closed: nobody reads any more.
    hutch_error_free(error);
    input_.clear();
    input_open_ = false;
    return;
  }
  input_.erase(input_.begin(), input_.begin() + static_cast<ptrdiff_t>(taken));
  input_blocked_ = !input_.empty();
}

void Relay::write_console_input() {
  if (input_.empty() || !options_.console.input) return;
  ssize_t count = ::write(options_.console.input.get(), input_.data(), input_.size());
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (count < 0) {
    input_open_ = false;
    input_.clear();
    return;
  }
  input_.erase(input_.begin(), input_.begin() + count);
}

void Relay::read_console() {
  Sink& sink = agent_ != nullptr ? errors_ : output_;
  std::vector<std::byte> bytes(kReadSize);
  while (sink.queued_bytes() < kConsoleBacklog) {
    ssize_t count = ::read(options_.console.output.get(), bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) return;
    if (count <= 0) {
      options_.console.output.reset();
      return;
    }
    sink.push(std::vector(bytes.begin(), bytes.begin() + count));
    sink.flush();
  }
}

void Relay::tell_broken() {
  if (told_broken_ || !started_ || exit_code_) return;
  // As in a pipeline of the host: whoever writes to a pipe without a reader gets SIGPIPE.
  told_broken_ = true;
  signal_process(SIGPIPE);
}

void Relay::check_deadlines() {
  uint64_t now = monotonic_ns();
  if (deadline_ns_ != 0 && now >= deadline_ns_) {
    deadline_ns_ = 0;
    kill_exit_code_ = kExitDeadline;
    if (started_) {
      signal_process(SIGTERM);
      kill_deadline_ns_ = now + kDeadlineGrace;
    } else {
      force_end(kExitDeadline);
    }
  }
  if (kill_deadline_ns_ != 0 && now >= kill_deadline_ns_) {
    kill_deadline_ns_ = 0;
    force_end(kill_exit_code_ != 0 ? kill_exit_code_ : kExitSignal + SIGKILL);
  }
}

}  // namespace hutch::cli
