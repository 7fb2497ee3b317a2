#include "guest-agent/rpc/deno.h"

#include <fcntl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>

#include "base/sys.h"
#include "guest-agent/rpc/files.h"
#include "guest-agent/rpc/parameters.h"

namespace hutch::agent::rpc {
namespace {

// In the folder of a process: where its HTTP server listens.
constexpr const char* kSocketName = "http";
constexpr std::chrono::milliseconds kFirstPoll{10}, kLastPoll{500};
// So long a REPL that is closed may take before a signal ends it.
constexpr std::chrono::milliseconds kFinishTime{1000};
// What Deno says when it starts a watched program again.
constexpr std::string_view kRestarting = "Restarting!";

std::string random_hex(size_t bytes) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string random(bytes, '\0'), text;
  if (::getrandom(random.data(), bytes, 0) != static_cast<ssize_t>(bytes)) throw_errno("getrandom");
  for (char byte : random) {
    auto value = static_cast<unsigned char>(byte);
    text += {kDigits[value >> 4], kDigits[value & 15]};
  }
  return text;
}

std::string uuid() {
  std::string hex = random_hex(16);
  hex[12] = '4';
  hex[16] = '8';
  return hex.substr(0, 8) + "-" + hex.substr(8, 4) + "-" + hex.substr(12, 4) + "-" +
         hex.substr(16, 4) + "-" + hex.substr(20);
}

bool is_extension(const std::string& text) {
  constexpr std::string_view kExtensions[] = {"js", "cjs", "mjs", "ts", "cts", "mts", "jsx", "tsx"};
  return std::find(std::begin(kExtensions), std::end(kExtensions), text) != std::end(kExtensions);
}

// The option that makes Deno watch: all that the program imports, and `paths`.
std::string watch_option(const std::vector<std::string>& paths) {
  std::string option = "--watch";
  for (const std::string& path : paths) {
    // Deno has no way to say it.
    if (path.find(',') != std::string::npos)
      throw type_error("the path \"" + path +
                       "\" cannot be watched: it holds a comma; watch its"
                       " folder instead");
    option += (option.find('=') == std::string::npos ? "=" : ",") + path;
  }
  return option;
}

// Finds the line in what comes in pieces.
class RestartFinder {
 public:
  explicit RestartFinder(std::function<void()> on_restart) : on_restart_(std::move(on_restart)) {}
  void take(std::string_view bytes) {
    held_.append(bytes);
    size_t at;
    while ((at = held_.find(kRestarting)) != std::string::npos) {
      held_.erase(0, at + kRestarting.size());
      on_restart_();
    }
    if (held_.size() >= kRestarting.size()) held_.erase(0, held_.size() - kRestarting.size() + 1);
  }

 private:
  std::function<void()> on_restart_;
  std::string held_;
};

}  // namespace

StartOptions Deno::prepare(const std::shared_ptr<Call>& call, const TemporaryFolder& folder) {
  auto connection = call->connection();
  if (!connection) throw abort_failure();
  auto path = environment_.all().find("PATH");
  std::string deno = find_program("deno", path == environment_.all().end() ? "" : path->second);
  if (deno.empty()) throw Failure("NotFound", "Failed to spawn 'deno': entity not found", "ENOENT");
  StartOptions options = read_start_options(call->params, *connection);
  options.arguments = {deno};
  options.environment["DENO_SERVE_ADDRESS"] = "duplicate,unix:" + folder / kSocketName;
  return options;
}

void Deno::add(const std::shared_ptr<Process>& process, Program program) {
  programs_[process->id()] = std::move(program);
  process->on_exit([this, weak = std::weak_ptr(process)] {
    auto ended = weak.lock();
    auto found = ended ? programs_.find(ended->id()) : programs_.end();
    if (found != programs_.end() && found->second.process == ended) programs_.erase(found);
  });
}

const Deno::Program& Deno::find(const Json& params) const {
  int64_t id = integer_of(params, "pid", 0, kMaxInteger);
  auto found = programs_.find(id);
  if (found == programs_.end())
    throw Failure("NotFound", "there is no Deno process " + std::to_string(id), "ENOENT");
  return found->second;
}

const Deno::Program& Deno::find_repl(const Json& params) const {
  const Program& program = find(params);
  if (!program.repl || !program.repl->is_connected())
    throw type_error("the process " + std::to_string(program.process->id()) + " is no REPL");
  return program;
}

std::string Deno::http_socket(int64_t process_id) const {
  return *find({{"pid", process_id}}).folder / kSocketName;
}

void Deno::run(const std::shared_ptr<Call>& call) {
  const Json& params = call->params;
  auto code = optional_text(params, "code"), entrypoint = optional_text(params, "entrypoint");
  if (code.has_value() == entrypoint.has_value())
    throw type_error("\"code\" or \"entrypoint\" must be given");
  std::string extension = optional_text(params, "extension").value_or("ts");
  if (!is_extension(extension))
    throw type_error("\"extension\" must be one of js, cjs, mjs, ts, cts, mts, jsx, tsx");
  std::vector<std::string> script_arguments = texts_of(params, "scriptArgs");
  auto watch = params.find("watch");
  bool has_list = watch != params.end() && watch->is_array();
  bool watches = has_list || flag_of(params, "watch", false);

  auto folder = std::make_shared<TemporaryFolder>("hutch-deno");
  StartOptions options = prepare(call, *folder);
  options.arguments.insert(options.arguments.end(), {"run", "-A"});
  std::string watcher;
  if (watches) {
    options.arguments.push_back(
        watch_option(has_list ? texts_of(params, "watch") : std::vector<std::string>()));
    watcher = uuid();
    auto finder =
        std::make_shared<RestartFinder>([weak = std::weak_ptr(call->connection()), watcher] {
          if (auto connection = weak.lock())
            connection->notify("$sandbox.deno.watcher.restart", {{"watcherId", watcher}});
        });
    options.error_tap = [finder](std::string_view bytes) { finder->take(bytes); };
  }
  if (code) {
    entrypoint = *folder / ("main." + extension);
    auto file = open_file(*entrypoint, O_WRONLY | O_CREAT | O_EXCL, 0600);
    auto written = file ? write_all(file->get(), std::as_bytes(std::span(*code))) : Result<void>();
    if (!file || !written)
      throw errno_failure(file ? written.error().number : file.error().number,
                          on_path("writefile", *entrypoint));
  }
  // A name that begins like an option is a file all the same.
  options.arguments.push_back(entrypoint->starts_with('-') ? "./" + *entrypoint : *entrypoint);
  for (std::string& argument : script_arguments) options.arguments.push_back(std::move(argument));
  processes_.start(call, std::move(options),
                   [this, call, folder, watcher](const std::shared_ptr<Process>& process) {
                     add(process, {folder, process, nullptr});
                     call->ok({{"pid", process->id()},
                               {"stdoutStreamId", process->output_stream()},
                               {"stderrStreamId", process->error_stream()},
                               {"watcherId", watcher.empty() ? Json(nullptr) : Json(watcher)}});
                     Processes::release_streams(*process);
                   });
}

void Deno::wait_for_http(const std::shared_ptr<Call>& call) {
  int64_t id = integer_of(call->params, "pid", 0, kMaxInteger);
  auto found = programs_.find(id);
  // One that has ended will not listen any more.
  if (found == programs_.end()) return call->ok(false);
  const std::shared_ptr<Process>& process = found->second.process;
  process->on_exit([call] { call->ok(false); });
  poll_http(call, process, *found->second.folder / kSocketName, kFirstPoll);
}

void Deno::poll_http(const std::shared_ptr<Call>& call, const std::shared_ptr<Process>& process,
                     const std::string& socket, std::chrono::milliseconds interval) {
  if (!call->is_open() || process->is_over()) return;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, socket.data(),
              std::min(socket.size(), sizeof address.sun_path - 1));
  Fd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (probe &&
      ::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0)
    return call->ok(true);
  // Most programs listen at once or never: those must not cost the guest its idle time.
  after(interval, [this, call, process, socket, next = std::min(interval * 5 / 4, kLastPoll)] {
    poll_http(call, process, socket, next);
  });
}

void Deno::after(std::chrono::milliseconds delay, std::function<void()> function) {
  uint64_t number = next_timer_++;
  timers_[number] = loop_.after(delay, [this, number, function = std::move(function)](uint32_t) {
    auto copy = function;  // what is erased is what runs
    timers_.erase(number);
    copy();
  });
}

void Deno::start_repl(const std::shared_ptr<Call>& call) {
  std::vector<std::string> script_arguments = texts_of(call->params, "scriptArgs");
  auto folder = std::make_shared<TemporaryFolder>("hutch-deno");
  std::string token = random_hex(16);
  StartOptions options = prepare(call, *folder);
  std::string deno = options.arguments.front();
  options.agent_program = true;
  options.arguments = {"rpc-repl", socket_name_, token, deno, "repl", "-A", "--json"};
  if (!script_arguments.empty()) options.arguments.push_back("--");
  for (std::string& argument : script_arguments) options.arguments.push_back(std::move(argument));

  auto repl = std::make_shared<Repl>(waiters_);
  // The connections of REPLs that ended before they came.
  std::erase_if(expected_, [](const auto& entry) { return entry.second.expired(); });
  expected_[token] = repl;
  processes_.start(call, std::move(options),
                   [this, call, folder, repl](const std::shared_ptr<Process>& process) {
                     add(process, {folder, process, repl});
                     process->on_exit([call, weak = std::weak_ptr(process)] {
                       auto ended = weak.lock();
                       if (!call->is_open() || !ended) return;
                       Processes::drop_streams(*ended);
                       call->fail({"Error", "the REPL ended before it was ready"});
                     });
                     auto answer = [call, weak = std::weak_ptr(process)] {
                       auto ready = weak.lock();
                       if (!ready || ready->is_over()) return;
                       call->ok({{"pid", ready->id()},
                                 {"stdoutStreamId", ready->output_stream()},
                                 {"stderrStreamId", ready->error_stream()}});
                       Processes::release_streams(*ready);
                     };
                     // Its socket may be here before the agent says that it runs.
                     repl->is_connected() ? answer() : repl->set_on_connected(answer);
                   });
}

void Deno::take_repl(const std::string& token, Fd socket) {
  auto found = expected_.find(token);
  if (found == expected_.end()) return;
  auto repl = found->second.lock();
  expected_.erase(found);
  if (repl) repl->connect(std::move(socket));
}

void Deno::close_repl(const std::shared_ptr<Call>& call) {
  const Program& program = find(call->params);
  std::shared_ptr<Process> process = program.process;
  if (program.repl && program.repl->finish()) {
    after(kFinishTime, [this, process] {
      if (!process->is_over()) processes_.signal(*process, SIGTERM);
    });
  } else {
    processes_.signal(*process, SIGTERM);
  }
  call->ok();
}

void Deno::evaluate(const std::shared_ptr<Call>& call) {
  std::string code = text_of(call->params, "code");
  find_repl(call->params).repl->evaluate(call, std::move(code));
}

void Deno::call_function(const std::shared_ptr<Call>& call) {
  auto found = call->params.find("args");
  Json arguments = found == call->params.end() || found->is_null() ? Json::array() : *found;
  if (!arguments.is_array()) throw type_error("\"args\" must be a list");
  std::string function = text_of(call->params, "fn");
  const Program& program = find_repl(call->params);
  // As JSON, not as source: there, "__proto__" would be another thing.
  program.repl->evaluate(
      call, "await (" + function + ")(...JSON.parse(" + json_text(json_text(arguments)) + "))");
}

}  // namespace hutch::agent::rpc
