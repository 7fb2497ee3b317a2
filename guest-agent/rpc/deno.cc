#include "guest-agent/rpc/deno.h"

#include <fcntl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "base/sys.h"
#include "base/wire.h"
#include "guest-agent/rpc/files.h"
#include "guest-agent/rpc/parameters.h"

namespace hutch::agent::rpc {
namespace {

constexpr std::chrono::milliseconds kPollInterval{20};
constexpr size_t kMaxReplMessage = size_t{64} << 20;
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

void remove_folder(const std::string& folder) {
  std::error_code ignored;  // what is left lies in /tmp
  std::filesystem::remove_all(folder, ignored);
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

// Blocking, on a worker.
void receive_exactly(int fd, char* bytes, size_t size) {
  while (size > 0) {
    ssize_t count = ::recv(fd, bytes, size, 0);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) throw Failure("NotFound", "the REPL has ended", "ENOENT");
    bytes += count;
    size -= static_cast<size_t>(count);
  }
}

// Runs code in a REPL. A message is its size in 32 bits, little-endian, and JSON.
Json run_in_repl(int fd, const std::string& code, bool wants_output) {
  std::string text = json_text({{"type", "Run"}, {"code", code}, {"output", wants_output}});
  le32 size = static_cast<uint32_t>(text.size());
  text.insert(0, reinterpret_cast<const char*>(&size), sizeof size);
  for (std::string_view rest = text; !rest.empty();) {
    ssize_t count = ::send(fd, rest.data(), rest.size(), MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw Failure("NotFound", "the REPL has ended", "ENOENT");
    rest.remove_prefix(static_cast<size_t>(count));
  }
  receive_exactly(fd, reinterpret_cast<char*>(&size), sizeof size);
  if (size > kMaxReplMessage) throw Failure("Error", "the value is too large");
  std::string answer(size, '\0');
  receive_exactly(fd, answer.data(), answer.size());
  Json parsed = Json::parse(answer, nullptr, false);
  if (!parsed.is_object() || !parsed.contains("type") || !parsed["type"].is_string())
    throw Failure("Error", "the REPL gave an answer that is not understood");
  return parsed;
}

std::string output_of(const Json& answer) {
  return answer.contains("output") && answer["output"].is_string()
             ? answer["output"].get<std::string>()
             : std::string();
}

// What the code threw last.
Failure thrown_in_repl(int fd) {
  Json answer = run_in_repl(
      fd,
      "JSON.stringify(_error instanceof Error ? {c: _error.constructor.name, m: "
      "String(_error.message), n: String(_error.name), s: String(_error.stack), d: "
      "typeof _error.code === 'string' ? _error.code : ''} : {c: 'Error', m: String(_error), n: "
      "'', s: '', d: ''})",
      true);
  Json error = Json::parse(output_of(answer), nullptr, false);
  if (!error.is_object()) return {"Error", "the code threw something that cannot be shown"};
  Failure failure(error.value("c", "Error"), error.value("m", ""), error.value("d", ""));
  failure.name = error.value("n", "");
  failure.stack = error.value("s", "");
  return failure;
}

std::string evaluate_in_repl(int fd, const std::string& code) {
  Json answer = run_in_repl(fd, code, false);
  if (answer["type"] == "Error")
    throw Failure("SyntaxError", answer.value("error", "the code is not understood"));
  if (answer["type"] == "RunFailure") throw thrown_in_repl(fd);
  answer = run_in_repl(fd, "JSON.stringify(_)", true);
  if (answer["type"] != "RunSuccess") throw thrown_in_repl(fd);
  std::string text = output_of(answer);
  // undefined, and what else has no JSON.
  return text == "undefined" || !Json::accept(text) ? "null" : text;
}

}  // namespace

StartOptions Deno::prepare(const std::shared_ptr<Call>& call, std::string& folder) {
  auto connection = call->connection();
  if (!connection) throw abort_failure();
  auto path = environment_.all().find("PATH");
  std::string deno = find_program("deno", path == environment_.all().end() ? "" : path->second);
  if (deno.empty()) throw Failure("NotFound", "Failed to spawn 'deno': entity not found", "ENOENT");
  StartOptions options = read_start_options(call->params, *connection);
  options.arguments = {deno};
  std::array<char, 32> name = {"/tmp/hutch-deno-XXXXXX"};
  if (::mkdtemp(name.data()) == nullptr) throw_errno(on_path("mkdir", name.data()));
  folder = name.data();
  options.environment["DENO_SERVE_ADDRESS"] = "duplicate,unix:" + folder + "/http";
  return options;
}

void Deno::add(const std::shared_ptr<Process>& process, const std::string& folder,
               std::shared_ptr<Repl> repl) {
  programs_[process->id()] = {folder, process, std::move(repl)};
  process->on_exit([this, weak = std::weak_ptr(process), folder] {
    remove_folder(folder);
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

std::string Deno::http_socket(int64_t process_id) const {
  return find({{"pid", process_id}}).folder + "/http";
}

void Deno::run(const std::shared_ptr<Call>& call) {
  const Json& params = call->params;
  auto code = optional_text(params, "code"), entrypoint = optional_text(params, "entrypoint");
  if (code.has_value() == entrypoint.has_value())
    throw type_error("\"code\" or \"entrypoint\" must be given");
  std::string extension = optional_text(params, "extension").value_or("ts");
  if (extension.empty() || extension.find_first_not_of("cjmstx") != std::string::npos)
    throw type_error("\"extension\" must be one of js, cjs, mjs, ts, cts, mts, jsx, tsx");
  std::vector<std::string> script_arguments = texts_of(params, "scriptArgs");
  std::vector<std::string> watched;
  bool watches = false;
  auto watch = params.find("watch");
  if (watch != params.end() && watch->is_array()) {
    watched = texts_of(params, "watch");
    watches = true;
  } else {
    watches = flag_of(params, "watch", false);
  }

  std::string folder, watcher;
  StartOptions options = prepare(call, folder);
  options.arguments.insert(options.arguments.end(), {"run", "-A"});
  if (watches) {
    std::string list;
    for (const std::string& path : watched) list += (list.empty() ? "=" : ",") + path;
    options.arguments.push_back("--watch" + list);
    watcher = uuid();
    auto finder =
        std::make_shared<RestartFinder>([weak = std::weak_ptr(call->connection()), watcher] {
          if (auto connection = weak.lock())
            connection->notify("$sandbox.deno.watcher.restart", {{"watcherId", watcher}});
        });
    options.error_tap = [finder](std::string_view bytes) { finder->take(bytes); };
  }
  if (code) {
    entrypoint = folder + "/main." + extension;
    auto file = open_file(*entrypoint, O_WRONLY | O_CREAT | O_EXCL, 0600);
    auto written = file ? write_all(file->get(), std::as_bytes(std::span(*code))) : Result<void>();
    if (!file || !written) {
      remove_folder(folder);
      throw errno_failure(file ? written.error().number : file.error().number,
                          on_path("writefile", *entrypoint));
    }
  }
  options.arguments.push_back(*entrypoint);
  for (std::string& argument : script_arguments) options.arguments.push_back(std::move(argument));
  processes_.start(call, std::move(options),
                   [this, call, folder, watcher](const std::shared_ptr<Process>& process) {
                     add(process, folder, nullptr);
                     call->ok({{"pid", process->id()},
                               {"stdoutStreamId", process->output_stream()},
                               {"stderrStreamId", process->error_stream()},
                               {"watcherId", watcher.empty() ? Json(nullptr) : Json(watcher)}});
                   });
}

void Deno::wait_for_http(const std::shared_ptr<Call>& call) {
  int64_t id = integer_of(call->params, "pid", 0, kMaxInteger);
  auto found = programs_.find(id);
  // One that has ended will not listen any more.
  if (found == programs_.end()) return call->ok(false);
  poll_http(call, found->second.process, found->second.folder + "/http");
}

void Deno::poll_http(const std::shared_ptr<Call>& call, const std::shared_ptr<Process>& process,
                     const std::string& socket) {
  if (!call->is_open()) return;
  if (process->is_over()) return call->ok(false);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, socket.data(),
              std::min(socket.size(), sizeof address.sun_path - 1));
  Fd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (probe &&
      ::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0)
    return call->ok(true);
  uint64_t number = next_poll_++;
  polls_[number] = loop_.after(kPollInterval, [this, number, call, process, socket](uint32_t) {
    // Copied: what is erased is what runs.
    auto again = [this, call, process, socket] { poll_http(call, process, socket); };
    polls_.erase(number);
    again();
  });
}

void Deno::start_repl(const std::shared_ptr<Call>& call) {
  std::vector<std::string> script_arguments = texts_of(call->params, "scriptArgs");
  std::string folder, token = random_hex(16);
  StartOptions options = prepare(call, folder);
  std::string deno = options.arguments.front();
  options.agent_program = true;
  options.arguments = {"rpc-repl", socket_name_, token, deno, "repl", "-A", "--json"};
  if (!script_arguments.empty()) options.arguments.push_back("--");
  for (std::string& argument : script_arguments) options.arguments.push_back(std::move(argument));
  auto repl = std::make_shared<Repl>();
  processes_.start(call, std::move(options),
                   [this, call, folder, token, repl](const std::shared_ptr<Process>& process) {
                     add(process, folder, repl);
                     auto answer = [call, process] {
                       call->ok({{"pid", process->id()},
                                 {"stdoutStreamId", process->output_stream()},
                                 {"stderrStreamId", process->error_stream()}});
                     };
                     // The socket may be here already, if not it comes, or the process ends
                     // without.
                     if (repl->socket) return answer();
                     expected_[token].arrived = answer;
                     process->on_exit([this, call, token] {
                       expected_.erase(token);
                       call->fail({"Error", "the REPL ended before it was ready"});
                     });
                   });
  expected_[token].repl = repl;
}

void Deno::take_repl(const std::string& token, Fd socket) {
  auto found = expected_.find(token);
  if (found == expected_.end()) return;
  Expected expected = std::move(found->second);
  expected_.erase(found);
  expected.repl->socket = std::move(socket);
  if (expected.arrived) expected.arrived();
}

void Deno::close_repl(const std::shared_ptr<Call>& call) {
  const Program& program = find(call->params);
  processes_.signal(*program.process, SIGTERM);
  call->ok();
}

void Deno::evaluate_code(const std::shared_ptr<Call>& call, std::string code) {
  const Program& program = find(call->params);
  if (!program.repl || !program.repl->socket) throw type_error("the process is no REPL");
  struct Outcome {
    std::string json;
    std::optional<Failure> failure;
  };
  auto outcome = std::make_shared<Outcome>();
  waiters_.run(
      [outcome, repl = program.repl, code = std::move(code)] {
        std::lock_guard guard(repl->mutex);
        try {
          outcome->json = evaluate_in_repl(repl->socket.get(), code);
        } catch (const Failure& failure) {
          outcome->failure = failure;
        } catch (const std::exception& error) {
          outcome->failure = Failure("Error", error.what());
        }
      },
      [outcome, call] {
        if (outcome->failure) return call->fail(*outcome->failure);
        call->ok_text(outcome->json);
      });
}

void Deno::evaluate(const std::shared_ptr<Call>& call) {
  evaluate_code(call, text_of(call->params, "code"));
}

void Deno::call_function(const std::shared_ptr<Call>& call) {
  auto found = call->params.find("args");
  Json arguments = found == call->params.end() || found->is_null() ? Json::array() : *found;
  if (!arguments.is_array()) throw type_error("\"args\" must be a list");
  evaluate_code(call,
                "await (" + text_of(call->params, "fn") + ")(..." + json_text(arguments) + ")");
}

}  // namespace hutch::agent::rpc
