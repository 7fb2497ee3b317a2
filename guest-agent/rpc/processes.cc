#include "guest-agent/rpc/processes.h"

#include <signal.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>

#include "guest-agent/rpc/file_mask.h"
#include "guest-agent/rpc/parameters.h"

namespace hutch::agent::rpc {
namespace {

using protocol::agent::Exited;
using protocol::agent::Failed;
using protocol::agent::FailureStage;

// A client that has not asked for a process's end by then gets its output all the same. Long enough
// for a client and a server on a busy host: @deno/sandbox asks at once, and when it is late its
// program ends at a stream that it cancels.
constexpr std::chrono::milliseconds kStreamDelay{500};
// So many ended processes can still be asked for.
constexpr size_t kMaxEnded = 4096;

bool is_piped(const Json& params, const char* key) {
  std::string mode = optional_text(params, key).value_or("piped");
  if (mode != "piped" && mode != "null")
    throw type_error(std::string("\"") + key + "\" must be \"piped\" or \"null\", not \"" + mode +
                     "\"");
  return mode == "piped";
}

Failure spawn_failure(const std::string& program, const std::string& directory,
                      const Failed& failed) {
  int number = static_cast<int>(failed.error_number);
  std::string prefix = "Failed to spawn '" + program + "': ";
  if (number == 0) return {"Error", prefix + failed.message};
  Failure failure = errno_failure(number);
  if (failed.stage == FailureStage::kDirectory) {
    failure.message = prefix + "No such cwd '" + directory + "': " + failure.message;
  } else if (failed.stage == FailureStage::kExecute && number == ENOENT) {
    failure.message = prefix + "entity not found";
  } else {
    failure.message = prefix + failure.message;
  }
  return failure;
}

std::string signal_name(uint32_t number) {
  const char* name = ::sigabbrev_np(static_cast<int>(number));
  return name == nullptr ? "SIG" + std::to_string(number) : std::string("SIG") + name;
}

}  // namespace

uint32_t signal_number(const std::string& name) {
  for (int number = 1; number < SIGRTMIN; number++) {
    const char* known = ::sigabbrev_np(number);
    if (known != nullptr && name == std::string("SIG") + known)
      return static_cast<uint32_t>(number);
  }
  if (name == "SIGIOT") return SIGABRT;
  if (name == "SIGPOLL") return SIGIO;
  if (name == "SIGUNUSED") return SIGSYS;
  throw type_error("Invalid signal: " + name);
}

StartOptions read_start_options(const Json& params, Connection& connection) {
  StartOptions options;
  options.environment = text_map_of(params, "env");
  options.clear_environment = flag_of(params, "clearEnv", false);
  options.working_directory = optional_text(params, "cwd").value_or("");
  if (!options.working_directory.empty() && options.working_directory.front() != '/') {
    std::array<char, PATH_MAX> here;
    if (::getcwd(here.data(), here.size()) == nullptr) throw_errno("cwd");
    options.working_directory = std::string(here.data()) + "/" + options.working_directory;
  }
  options.output_piped = is_piped(params, "stdout");
  options.error_piped = is_piped(params, "stderr");
  auto input = optional_integer(params, "stdinStreamId", 0, kMaxInteger);
  if (input) options.input = connection.claim_stream(static_cast<uint64_t>(*input));
  return options;
}

void Process::on_exit(std::function<void()> function) {
  if (exit_) return function();
  on_exit_.push_back(std::move(function));
}

Json Process::stream_id(size_t index) const {
  return streams_[index] ? Json(streams_[index]->id()) : Json(nullptr);
}

Json Process::wait_result() const {
  Json result{{"signal", nullptr}, {"oom", nullptr}};
  uint32_t code = exit_->value;
  if (exit_->signaled) {
    result["signal"] = signal_name(code);
    code += 128;
  }
  result["code"] = code;
  result["success"] = code == 0;
  if (exit_->out_of_memory) result["oom"] = "high-confidence";
  return result;
}

void Processes::start(const std::shared_ptr<Call>& call, StartOptions options,
                      std::function<void(const std::shared_ptr<Process>&)> started) {
  protocol::agent::Spawn request;
  request.arguments = options.arguments;
  request.environment = environment_.with(options.environment, options.clear_environment);
  request.clear_environment = true;  // the service's own holds the user's default already
  request.working_directory = options.working_directory;
  request.open_input = options.input != nullptr;
  request.agent_program = options.agent_program;
  request.file_mask = static_cast<uint16_t>(file_mask());

  auto process = std::make_shared<Process>();
  process->connection_ = call->connection();
  process->options_ = std::move(options);
  ProcessEvents events;
  events.started = [this, process, started = std::move(started)](uint32_t id) {
    process->id_ = id;
    processes_[id] = process;
    open_streams(process);
    started(process);
  };
  events.failed = [call, process](const Failed& failed) {
    const StartOptions& of = process->options_;
    Failure failure = spawn_failure(of.arguments.front(), of.working_directory, failed);
    if (of.input) of.input->cancel(failure);
    call->fail(failure);
  };
  events.output = [this, process](int stream, std::string bytes) {
    take_output(process, stream, std::move(bytes));
  };
  events.output_end = [process](int stream) {
    auto& outbound = process->streams_[stream - 1];
    if (outbound) outbound->end();
  };
  events.input_room = [this, process] { feed(process); };
  events.exited = [this, process](const Exited& exit) { finish(process, exit); };
  events.over = [] {};
  process->channel_ = link_.spawn(request, std::move(events));
  if (process->options_.input)
    process->options_.input->set_on_data([this, weak = std::weak_ptr(process)] {
      if (auto self = weak.lock()) feed(self);
    });
}

void Processes::release_streams(Process& process) {
  for (auto& stream : process.streams_) {
    if (stream) stream->release_after(kStreamDelay);
  }
}

void Processes::drop_streams(Process& process) {
  auto connection = process.connection_.lock();
  for (auto& stream : process.streams_) {
    if (!stream) continue;
    if (connection) connection->forget_outbound(stream->id());
    stream->cancel();
  }
}

void Processes::open_streams(const std::shared_ptr<Process>& process) {
  auto connection = process->connection_.lock();
  if (!connection) return;
  for (int number : {1, 2}) {
    if (number == 1 ? !process->options_.output_piped : !process->options_.error_piped) continue;
    std::shared_ptr<OutboundStream> stream;
    try {
      stream = connection->open_stream();
    } catch (const Failure&) {
      continue;  // the client has half a million streams open: the answer says null
    }
    stream->set_on_passed([this, channel = process->channel_, number](size_t bytes) {
      link_.give_credit(channel, number, bytes);
    });
    process->streams_[number - 1] = std::move(stream);
  }
}

void Processes::take_output(const std::shared_ptr<Process>& process, int stream,
                            std::string bytes) {
  if (stream == 2 && process->options_.error_tap) process->options_.error_tap(bytes);
  auto& outbound = process->streams_[stream - 1];
  // Nobody reads it: the process must not stop for that.
  if (!outbound) return link_.give_credit(process->channel_, stream, bytes.size());
  outbound->push(std::move(bytes));
}

void Processes::feed(const std::shared_ptr<Process>& process) {
  std::shared_ptr<InboundStream> input = process->options_.input;
  if (!input || process->exit_) return;
  while (link_.input_room(process->channel_) > 0) {
    std::optional<std::string> chunk = input->take(link_.input_room(process->channel_));
    if (!chunk) break;
    link_.send_input(process->channel_, *chunk);
  }
  if (!input->is_ended()) return;
  process->options_.input.reset();
  link_.end_input(process->channel_);
}

void Processes::finish(const std::shared_ptr<Process>& process, const Exited& exit) {
  process->exit_ = exit;
  if (process->options_.input) {
    process->options_.input->cancel(broken_pipe());
    process->options_.input.reset();
  }
  for (auto& call : std::exchange(process->waiting_, {})) call->ok(process->wait_result());
  for (auto& function : std::exchange(process->on_exit_, {})) function();
  ended_.push_back(process);
  while (ended_.size() > kMaxEnded) {
    auto oldest = ended_.front().lock();
    ended_.pop_front();
    auto found = oldest ? processes_.find(oldest->id_) : processes_.end();
    if (found != processes_.end() && found->second == oldest) processes_.erase(found);
  }
}

std::shared_ptr<Process> Processes::find_running(int64_t process_id) const {
  auto found = processes_.find(process_id);
  return found == processes_.end() || found->second->exit_ ? nullptr : found->second;
}

void Processes::signal(const Process& process, uint32_t number) {
  link_.signal(process.channel_, number);
}

void Processes::spawn(const std::shared_ptr<Call>& call) {
  auto connection = call->connection();
  if (!connection) return;
  std::vector<std::string> arguments = {text_of(call->params, "command")};
  for (std::string& argument : texts_of(call->params, "args"))
    arguments.push_back(std::move(argument));
  StartOptions options = read_start_options(call->params, *connection);
  options.arguments = std::move(arguments);
  start(call, std::move(options), [call](const std::shared_ptr<Process>& process) {
    call->ok({{"pid", process->id()},
              {"stdoutStreamId", process->output_stream()},
              {"stderrStreamId", process->error_stream()}});
    release_streams(*process);
  });
}

void Processes::wait(const std::shared_ptr<Call>& call) {
  int64_t id = integer_of(call->params, "pid", 0, kMaxInteger);
  auto found = processes_.find(id);
  if (found == processes_.end())
    throw Failure("NotFound", "there is no child process " + std::to_string(id), "ENOENT");
  const std::shared_ptr<Process>& process = found->second;
  // Now the client listens to the streams.
  if (process->connection_.lock() == call->connection()) {
    for (auto& stream : process->streams_) {
      if (stream) stream->release();
    }
  }
  if (process->exit_) return call->ok(process->wait_result());
  std::erase_if(process->waiting_, [](const auto& other) { return !other->is_open(); });
  process->waiting_.push_back(call);
}

void Processes::kill(const std::shared_ptr<Call>& call) {
  int64_t id = integer_of(call->params, "pid", 0, kMaxInteger);
  uint32_t number = signal_number(optional_text(call->params, "signal").value_or("SIGTERM"));
  auto process = find_running(id);
  if (!process) {
    Failure failure = type_error("Child process has already terminated");
    failure.code = "ENOENT";
    throw failure;
  }
  signal(*process, number);
  call->ok();
}

}  // namespace hutch::agent::rpc
