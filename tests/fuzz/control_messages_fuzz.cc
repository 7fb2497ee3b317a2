// What a guest sends on a channel of the control plane: pieces, their JSON, and the rules for what
// may reach a client.
//
// The first byte says in what parts the stream arrives. Besides memory errors, this looks for a
// message that reaches the client and is no well-formed JSON, answers no call, or names a stream of
// another connection, and for a result that depends on how the stream was cut.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "control/ids.h"
#include "control/relay.h"

namespace {

using namespace hutch::control;  // NOLINT: one room

constexpr uint64_t kBase = 3 * kStreamsPerConnection;

void require(bool condition) {
  if (!condition) std::abort();
}

struct Output final : RelayOutput {
  void send_part(std::string bytes, bool last) override {
    text += bytes;
    if (last) messages.push_back(std::exchange(text, {}));
  }
  void send_pong() override { std::abort(); }
  void close(uint16_t code, std::string_view) override { closed = code; }
  std::string text;
  std::vector<std::string> messages;
  uint16_t closed = 0;
};

Output run(std::string_view bytes, size_t step) {
  Output output;
  Relay relay(kBase, output);
  for (const char* call : {R"({"id":0,"method":"readFile"})", R"({"id":1,"method":"spawn"})",
                           R"({"id":"a","method":"walk"})", R"({"id":2,"method":"fetch"})"}) {
    relay.from_client(call, true);
    relay.wrote(relay.to_guest().size());
  }
  for (size_t at = 0; at < bytes.size(); at += step) relay.from_guest(bytes.substr(at, step));
  return output;
}

void check(const std::string& text) {
  nlohmann::json message = nlohmann::json::parse(text, nullptr, false);
  require(message.is_object());
  JsonScanner scanner;
  require(scanner.feed(text) && scanner.is_complete());
  if (!message.contains("method")) {
    require(message["id"] == 0 || message["id"] == 1 || message["id"] == 2 || message["id"] == "a");
    require(message["result"].size() == 1);
    return;
  }
  std::string method = message["method"];
  if (!method.starts_with("$sandbox.stream.") || method.ends_with("cancel")) return;
  uint64_t stream = message["params"]["streamId"];
  require(stream >= kBase && stream - kBase < kStreamsPerConnection);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  Output whole = run(bytes, std::max<size_t>(bytes.size(), 1));
  Output cut = run(bytes, size_t{data[0]} % 16 + 1);
  require(whole.messages == cut.messages && whole.closed == cut.closed);
  for (const std::string& message : whole.messages) check(message);
  return 0;
}
