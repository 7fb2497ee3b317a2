#include "guest-agent/rpc/repl.h"

#include <sys/socket.h>

#include <cerrno>
#include <string_view>
#include <utility>

#include "base/wire.h"
#include "guest-agent/rpc/codecs.h"
#include "guest-agent/rpc/files.h"

namespace hutch::agent::rpc {
namespace {

constexpr size_t kMaxMessage = size_t{64} << 20;
// The control plane and the client refuse what nests deeper.
constexpr size_t kMaxNesting = 200;

// Kept out of the way of the code's own names: it may call a variable `_`, or change JSON.
//   text()  the last value as JSON; it becomes `value`
//   error() the last thrown thing as JSON
constexpr std::string_view kHelper = R"js((() => {
  const getter = (name) => Object.getOwnPropertyDescriptor(globalThis, name).get;
  const last = getter("_"), thrown = getter("_error"), toText = JSON.stringify;
  const helper = {
    parse: JSON.parse,
    value: undefined,
    text() {
      helper.value = last();
      const text = toText(helper.value);
      // Half a surrogate pair, which is all that is escaped so, has no UTF-8.
      return text?.includes("\\ud")
        ? text.replace(/\\(?:ud[89a-f]..|.)/g, (found) => found.length > 2 ? "\\ufffd" : found)
        : text;
    },
    error() {
      const error = thrown();
      const isError = error instanceof Error || error instanceof DOMException;
      if (!isError) return toText({ constructor: "Error", message: String(error) });
      return toText({
        constructor: String(error.constructor?.name || "Error"),
        message: String(error.message),
        name: String(error.name),
        stack: String(error.stack),
        code: typeof error.code === "string" ? error.code : "",
      });
    },
  };
  Object.defineProperty(globalThis, Symbol.for("hutch.repl"), { value: helper });
})())js";
constexpr std::string_view kHelperName = R"(globalThis[Symbol.for("hutch.repl")])";

std::string helper(std::string_view member) {
  return std::string(kHelperName).append(".").append(member);
}

Failure ended() {
  return {"NotFound", "the REPL has ended", "ENOENT"};
}

std::string text_in(const Json& object, const char* key, const char* otherwise = "") {
  auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : otherwise;
}

}  // namespace

void Repl::connect(Fd socket) {
  socket_ = std::move(socket);
  auto on_connected = std::exchange(on_connected_, nullptr);
  if (on_connected) on_connected();
}

void Repl::evaluate(const std::shared_ptr<Call>& call, std::string code) {
  waiting_.push_back({call, std::move(code)});
  if (!busy_) run_next();
}

bool Repl::finish() {
  if (busy_ || !socket_) return false;
  ::shutdown(socket_.get(), SHUT_WR);
  return true;
}

void Repl::run_next() {
  busy_ = !waiting_.empty();
  if (!busy_) return;
  Evaluation next = std::move(waiting_.front());
  waiting_.pop_front();
  struct Outcome {
    std::string json;
    std::optional<Failure> failure;
  };
  auto outcome = std::make_shared<Outcome>();
  waiters_.run(
      [self = shared_from_this(), outcome, code = std::move(next.code)] {
        try {
          outcome->json = self->value_of(code);
        } catch (const Failure& failure) {
          outcome->failure = failure;
        } catch (const std::exception& error) {
          outcome->failure = Failure("Error", error.what());
        }
      },
      [self = shared_from_this(), outcome, call = std::move(next.call)] {
        if (outcome->failure) {
          call->fail(*outcome->failure);
        } else {
          call->ok_text(outcome->json);
        }
        self->run_next();
      });
}

void Repl::send_all(std::string_view bytes) {
  while (!bytes.empty()) {
    ssize_t count = ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw ended();
    bytes.remove_prefix(static_cast<size_t>(count));
  }
}

void Repl::receive_all(char* bytes, size_t size) {
  while (size > 0) {
    ssize_t count = ::recv(socket_.get(), bytes, size, 0);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) throw ended();
    bytes += count;
    size -= static_cast<size_t>(count);
  }
}

// A message is its size in 32 bits, little-endian, and JSON.
Json Repl::exchange(const std::string& code, bool wants_output) {
  std::string text = json_text({{"type", "Run"}, {"code", code}, {"output", wants_output}});
  le32 size = static_cast<uint32_t>(text.size());
  send_all({reinterpret_cast<const char*>(&size), sizeof size});
  send_all(text);
  receive_all(reinterpret_cast<char*>(&size), sizeof size);
  if (size > kMaxMessage) {
    // What follows is in the way of the next answer.
    ::shutdown(socket_.get(), SHUT_RDWR);
    throw Failure("Error", "the value has " + std::to_string(size) + " bytes as text, at most " +
                               std::to_string(kMaxMessage) + " pass; the REPL is ended");
  }
  std::string answer(size, '\0');
  receive_all(answer.data(), answer.size());
  Json parsed = Json::parse(answer, nullptr, false);
  if (!parsed.is_object() || text_in(parsed, "type").empty())
    throw Failure("Error", "the REPL gave an answer that is not understood");
  return parsed;
}

void Repl::throw_thrown() {
  Json answer = exchange(helper("error()"), true);
  std::string text = text_in(answer, "output");
  Json error = Json::parse(text, nullptr, false);
  if (!error.is_object()) throw Failure("Error", "the code threw what cannot be shown");
  Failure failure(text_in(error, "constructor", "Error"), text_in(error, "message"),
                  text_in(error, "code"));
  failure.name = text_in(error, "name");
  failure.stack = text_in(error, "stack");
  throw failure;
}

std::string Repl::value_of(const std::string& code) {
  if (!is_prepared_) {
    Json answer = exchange(std::string(kHelper), false);
    if (text_in(answer, "type") != "RunSuccess")
      throw Failure("Error", "the image's Deno has another REPL than this service knows");
    is_prepared_ = true;
  }
  Json answer = exchange(code, false);
  std::string type = text_in(answer, "type");
  if (type == "Error") {
    std::string message = text_in(answer, "error", "the code is not understood");
    constexpr std::string_view kClass = "SyntaxError: ";
    if (message.starts_with(kClass)) message.erase(0, kClass.size());
    throw Failure("SyntaxError", std::move(message));
  }
  if (type == "RunFailure") {
    std::string text = text_in(answer, "text");
    if (!text.starts_with("Uncaught")) throw Failure("Error", std::move(text));
    throw_thrown();
  }
  answer = exchange(helper("text()"), true);
  if (text_in(answer, "type") != "RunSuccess") throw_thrown();
  // The text itself is the last value now: put back the code's.
  exchange(helper("value"), false);
  std::string text = text_in(answer, "output");
  // undefined, and what else has no JSON.
  if (text == "undefined" || !Json::accept(text)) return "null";
  if (nests_deeper(text, kMaxNesting))
    throw Failure("Error", "the value nests deeper than " + std::to_string(kMaxNesting) +
                               " levels, more than an answer may");
  return text;
}

}  // namespace hutch::agent::rpc
