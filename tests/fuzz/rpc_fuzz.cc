// The sandbox's RPC service: framing, dispatch and every method that needs no process.
//
// The first byte of an input says in what pieces it arrives. With its highest bit the rest is a
// stream of framed messages, read twice: how it is cut must not matter. Without it the rest is
// lines, each the text of a message to a service. What names a file there is brought below a folder
// of the run, so that an input can do no harm. What the service says is checked as the control
// plane checks it.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/log.h"
#include "base/wire.h"
#include "guest-agent/rpc/framing.h"
#include "guest-agent/rpc/service.h"

namespace {

using namespace hutch;              // NOLINT: of the target
using namespace hutch::agent::rpc;  // NOLINT: of the target

constexpr uint64_t kBase = uint64_t{3} << 20;
// Longer waits are for what has no end: locks, and walks in circles.
constexpr std::chrono::milliseconds kPatience{20};
// So many inputs one service takes.
constexpr size_t kInputs = 1000;

void require(bool condition) {
  if (!condition) std::abort();
}

// All that lives longer than an input.
struct World {
  World() {
    std::signal(SIGPIPE, SIG_IGN);
    std::signal(SIGXFSZ, SIG_IGN);
    // A sparse file of petabytes would be copied for ever.
    rlimit small{1 << 20, 1 << 20};
    ::setrlimit(RLIMIT_FSIZE, &small);
    std::array<char, 32> name{"/tmp/hutch-fuzz-XXXXXX"};
    require(::mkdtemp(name.data()) != nullptr);
    folder = name.data();
    int ends[2];
    require(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    agent = Fd(ends[1]);
    loop = Loop::create().value();
    link = std::make_unique<AgentLink>(*loop, Fd(ends[0]), [](std::string) { std::abort(); });
  }
  ~World() {
    std::error_code ignored;  // the end of the run
    std::filesystem::remove_all(folder, ignored);
  }

  // Its threads cost more than an input does; its environment grows.
  Service* current_service() {
    if (inputs++ % kInputs == 0) {
      const char* nothing[] = {nullptr};
      service.reset();
      service = std::make_unique<Service>(*loop, *link, Environment(nothing), "none");
    }
    return service.get();
  }

  std::string folder;
  Fd agent;  // says nothing
  std::unique_ptr<Loop> loop;
  std::unique_ptr<AgentLink> link;
  std::unique_ptr<Service> service;
  size_t inputs = 0;
};

World& world() {
  static World the_world;
  return the_world;
}

// Below the folder, whatever it was.
std::string confined(const std::string& path) {
  std::string safe = world().folder;
  size_t parts = 0;
  for (size_t at = 0; at < path.size() && parts < 6; parts++) {
    size_t end = std::min(path.find('/', at), path.size());
    std::string part = path.substr(at, std::min<size_t>(end - at, 40));
    if (part != "..") safe += "/" + part;
    at = end + 1;
  }
  return safe;
}

// What takes exponential time is no finding.
bool is_costly(const std::string& pattern) {
  return std::count_if(pattern.begin(), pattern.end(), [](char character) {
           return std::string_view("*+?{").find(character) != std::string_view::npos;
         }) > 2;
}

void confine(Json& value, const std::string& key) {
  static const std::set<std::string> kPlain = {"data",   "content", "flags",  "value",
                                               "offset", "key",     "atime",  "mtime",
                                               "exts",   "prefix",  "suffix", "mode"};
  if (value.is_object()) {
    for (auto& [name, inner] : value.items()) confine(inner, name);
  } else if (value.is_array()) {
    for (auto& inner : value) confine(inner, key);
  } else if (value.is_string()) {
    auto& text = value.get_ref<std::string&>();
    if (key == "source" || key == "glob" || key == "exclude")
      text = is_costly(text) ? "x" : text.substr(0, 100);
    if (key != "source" && !kPlain.contains(key)) text = confined(text);
  }
}

// The message as it is sent; empty: not at all. `is_answered`: it has an answer soon.
std::string prepared(const std::string& line, bool& is_answered) {
  static const std::set<std::string> kLeftOut = {"spawn", "spawnDeno", "spawnDenoRepl", "fetch"};
  is_answered = false;
  Json message = Json::parse(line, nullptr, false);
  if (!message.is_object() || !message.contains("method") || !message["method"].is_string())
    return line;
  std::string method = message["method"];
  if (kLeftOut.contains(method)) return {};
  Json& params = message["params"];
  confine(params, "");
  if (method.starts_with("makeTemp") && params.is_object()) {
    if (!params["options"].is_object()) params["options"] = Json::object();
    if (!params["options"]["dir"].is_string()) params["options"]["dir"] = world().folder;
  }
  is_answered = message.contains("id") && message["id"].is_number() && method != "fileLock" &&
                !(params.is_object() && params.contains("contentStreamId"));
  return message.dump(-1, ' ', false, Json::error_handler_t::replace);
}

void check_message(const std::string& text, size_t& answers) {
  Json message = Json::parse(text, nullptr, false);
  require(message.is_object() && message.size() == 3 && message["jsonrpc"] == "2.0");
  if (message.contains("id")) {
    answers++;
    require(message["result"].is_object() && message["result"].size() == 1);
    bool is_ok = message["result"].contains("ok");
    require(text.starts_with(R"({"jsonrpc":"2.0","id":)" + message["id"].dump() +
                             R"(,"result":{")" + (is_ok ? "ok" : "error") + "\":"));
    return;
  }
  require(message["method"].get<std::string>().starts_with("$sandbox.stream."));
  require(message["params"]["streamId"].is_number_unsigned());
}

void converse(std::string_view lines, size_t piece) {
  World& the = world();
  std::string input;
  size_t expected = 0;
  while (!lines.empty()) {
    size_t end = std::min(lines.find('\n'), lines.size());
    bool is_answered;
    std::string text = prepared(std::string(lines.substr(0, end)), is_answered);
    expected += is_answered ? 1 : 0;
    lines.remove_prefix(std::min(end + 1, lines.size()));
    for (std::string_view rest = text; !rest.empty();) {
      std::string_view part = rest.substr(0, piece);
      rest.remove_prefix(part.size());
      le32 size = static_cast<uint32_t>(part.size()) | (rest.empty() ? 0U : 1U << 31);
      input.append(reinterpret_cast<const char*>(&size), sizeof size).append(part);
    }
  }

  Service* service = the.current_service();
  int in[2], out[2];
  require(::pipe2(in, O_CLOEXEC) == 0 && ::pipe2(out, O_CLOEXEC | O_NONBLOCK) == 0);
  Fd writer(in[1]), reader(out[0]);
  bool gone = false;
  require(service->connect(Fd(in[0]), Fd(out[1]), kBase, [&] { gone = true; }).has_value());
  ::fcntl(writer.get(), F_SETPIPE_SZ, 1 << 20);
  require(::write(writer.get(), input.data(), input.size()) == static_cast<ssize_t>(input.size()));

  MessageReader messages;
  size_t answers = 0;
  auto read_all = [&] {
    std::array<char, 65536> buffer;
    for (ssize_t count; (count = ::read(reader.get(), buffer.data(), buffer.size())) > 0;) {
      std::string_view bytes(buffer.data(), static_cast<size_t>(count));
      while (auto text = messages.next(bytes)) check_message(*text, answers);
    }
  };
  auto until = std::chrono::steady_clock::now() + kPatience;
  while (!gone && answers < expected && std::chrono::steady_clock::now() < until) {
    require(the.loop->run_once(1).has_value());
    read_all();
  }
  writer.reset();
  while (!gone) {
    require(the.loop->run_once(1).has_value());
    read_all();
  }
  // What its threads have left behind.
  bool done = false;
  the.loop->post([&] { done = true; });
  while (!done) require(the.loop->run_once(0).has_value());
}

struct Outcome {
  std::vector<std::string> messages;
  bool failed = false;
  bool operator==(const Outcome&) const = default;
};

Outcome read_stream(std::string_view stream, size_t piece) {
  MessageReader reader;
  Outcome outcome;
  try {
    while (!stream.empty()) {
      std::string_view input = stream.substr(0, piece);
      stream.remove_prefix(input.size());
      while (auto message = reader.next(input)) outcome.messages.push_back(*std::move(message));
      require(input.empty());
    }
  } catch (const std::runtime_error&) {
    outcome.failed = true;
  }
  return outcome;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  std::string_view rest(reinterpret_cast<const char*>(data + 1), size - 1);
  size_t piece = (data[0] & 0x7f) + size_t{1};
  if ((data[0] & 0x80) != 0) {
    require(read_stream(rest, rest.size() + 1) == read_stream(rest, piece));
    return 0;
  }
  ::umask(022);
  converse(rest, piece * 16);
  std::error_code ignored;  // of a folder without permissions, say
  for (const auto& entry : std::filesystem::directory_iterator(world().folder, ignored))
    std::filesystem::remove_all(entry.path(), ignored);
  return 0;
}
