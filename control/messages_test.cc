// What passes between a client and a guest: pieces, JSON, and each rule for what a guest may say.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <vector>

#include "control/framing.h"
#include "control/guest_messages.h"
#include "control/ids.h"
#include "control/json_scanner.h"
#include "control/relay.h"

using namespace hutch::control;
using nlohmann::json;
using Verdict = GuestMessages::Verdict;

namespace {

constexpr uint64_t kBase = 5 * kStreamsPerConnection;

std::string piece(std::string_view bytes, bool more = false) {
  auto head = piece_head(bytes.size(), more);
  return std::string(reinterpret_cast<const char*>(head.data()), head.size()) + std::string(bytes);
}

std::string stream_message(const char* name, const json& id, json more = json::object()) {
  more["streamId"] = id;
  return json{
      {"jsonrpc", "2.0"}, {"method", std::string("$sandbox.stream.") + name}, {"params", more}}
      .dump();
}

std::string answer(const json& id, const json& result) {
  return json{{"jsonrpc", "2.0"}, {"id", id}, {"result", result}}.dump();
}

struct Recorder final : RelayOutput {
  void send_part(std::string bytes, bool last) override {
    text += bytes;
    if (last) messages.push_back(std::exchange(text, {}));
    parts++;
  }
  void send_pong() override { pongs++; }
  void close(uint16_t code, std::string_view) override { closed = code; }
  std::string text;
  std::vector<std::string> messages;
  int parts = 0, pongs = 0;
  uint16_t closed = 0;
};

bool is_json(std::string_view text) {
  JsonScanner scanner;
  scanner.feed(text);
  return scanner.is_complete();
}

}  // namespace

TEST_CASE("the scanner agrees with a parser, however the text is cut") {
  for (std::string_view text : {"0",
                                "-1.5e+3",
                                "{}",
                                "[]",
                                "[1,2]",
                                R"({"a":[{"b":null}],"c":true})",
                                R"("\u00e4\n\"")",
                                " [ 1 , \"x\" ] ",
                                "\"\xc3\xa4\"",
                                "\"\xf0\x9f\x98\x80\"",
                                "",
                                "01",
                                "1.",
                                "-",
                                "1e",
                                "+1",
                                "{",
                                "[1,]",
                                "{,}",
                                R"({"a"})",
                                R"({"a":})",
                                R"({a:1})",
                                "nul",
                                "true false",
                                "\"\x01\"",
                                R"("\x")",
                                R"("\u12g4")",
                                "\"\xff\"",
                                "\"\xc0\x80\"",
                                "\"\xed\xa0\x80\"",
                                "\"\xf4\x90\x80\x80\"",
                                "]",
                                "[}",
                                "{\"a\":1]",
                                "1 2",
                                "\"abc"}) {
    CAPTURE(text);
    bool expected = json::accept(text);
    CHECK(is_json(text) == expected);
    JsonScanner slow;
    for (char c : text) slow.feed(std::string_view(&c, 1));
    CHECK(slow.is_complete() == expected);
  }
}

TEST_CASE("the scanner refuses documents that are too deep") {
  std::string at_limit(JsonScanner::kMaxDepth, '[');
  CHECK(is_json(at_limit + std::string(JsonScanner::kMaxDepth, ']')));
  CHECK_FALSE(is_json("[" + at_limit + std::string(JsonScanner::kMaxDepth + 1, ']')));
}

TEST_CASE("the scanner keeps id, method and stream, and only of the outermost object") {
  JsonScanner scanner;
  scanner.feed(R"({"params":{"streamId":7,"x":{"id":1,"streamId":8}},"x":{"streamId":9},)");
  scanner.feed(R"("method":"m","id":"a\"b"})");
  CHECK(scanner.is_complete());
  CHECK(scanner.id() == R"("a\"b")");
  CHECK(scanner.method() == R"("m")");
  CHECK(scanner.stream_id() == "7");
  CHECK(scanner.outer_members() == 4);

  JsonScanner last;
  last.feed(R"({"id":1,"id":2,"method":{"id":3}})");
  CHECK(last.id() == "2");
  CHECK(last.method().empty());
  JsonScanner longer;
  longer.feed("{\"id\":\"" + std::string(1000, 'x') + "\"}");
  CHECK(longer.is_complete());
  CHECK(longer.id().empty());
  JsonScanner hidden;
  hidden.feed(R"({"\u0069d":1})");
  CHECK(hidden.is_wrong());
}

TEST_CASE("pieces are put together whatever their cut") {
  std::string stream = piece("ab", true) + piece("c") + piece("d");
  for (size_t step : {1u, 2u, 3u, 5u, 100u}) {
    PieceReader reader;
    std::vector<std::string> messages(1);
    for (size_t at = 0; at < stream.size(); at += step)
      CHECK(reader.feed(std::string_view(stream).substr(at, step),
                        [&](std::string_view part, bool last) {
                          messages.back() += part;
                          if (last) messages.emplace_back();
                        }));
    CHECK(messages == std::vector<std::string>{"abc", "d", ""});
  }
}

TEST_CASE("a piece of no bytes or more than 1 MiB, and too long a message, break the stream") {
  auto ignore = [](std::string_view, bool) {};
  PieceReader empty, large, endless;
  CHECK_FALSE(empty.feed(std::string(4, '\0'), ignore));
  CHECK_FALSE(empty.feed(piece("x"), ignore));
  auto head = piece_head(kMaxPiece + 1, false);
  CHECK_FALSE(large.feed({reinterpret_cast<const char*>(head.data()), 4}, ignore));
  std::string full = piece(std::string(kMaxPiece, 'x'), true);
  for (uint64_t sent = 0; sent < kMaxMessageFromGuest; sent += kMaxPiece)
    REQUIRE(endless.feed(full, ignore));
  CHECK_FALSE(endless.feed(full, ignore));
}

TEST_CASE("an answer passes once, for a call under way, with the id as it was sent") {
  GuestMessages messages(kBase);
  CHECK(messages.note_client("0", "\"readFile\"", ""));
  CHECK(messages.note_client("\"0\"", "\"readFile\"", ""));
  CHECK(messages.check(answer(1, {{"ok", 1}})) == Verdict::kDrop);
  CHECK(messages.check(answer(0, {{"ok", nullptr}})) == Verdict::kPass);
  CHECK(messages.check(answer(0, {{"ok", nullptr}})) == Verdict::kDrop);
  CHECK(messages.check(answer("0", {{"ok", nullptr}})) == Verdict::kPass);
}

TEST_CASE("what is no answer of the documented shape is dropped") {
  GuestMessages messages(kBase);
  messages.note_client("0", "\"readFile\"", "");
  for (const char* text :
       {"", "x", "[]", "{}", R"({"jsonrpc":"2.0","id":0})", R"({"id":0,"result":{"ok":1}})",
        R"({"jsonrpc":"1.0","id":0,"result":{"ok":1}})", R"({"jsonrpc":"2.0","id":0,"result":1})",
        R"({"jsonrpc":"2.0","id":0,"result":{}})",
        R"({"jsonrpc":"2.0","id":0,"result":{"ok":1,"error":null}})",
        R"({"jsonrpc":"2.0","id":0,"error":{"code":1,"message":"x"}})",
        R"({"jsonrpc":"2.0","id":0,"result":{"ok":1},"error":{"code":1,"message":"x"}})",
        R"({"jsonrpc":"2.0","id":[0],"result":{"ok":1}})",
        R"({"jsonrpc":"2.0","id":0,"result":{"error":"x"}})",
        R"({"jsonrpc":"2.0","id":0,"result":{"error":{"message":"x"}}})",
        R"({"jsonrpc":"2.0","id":0,"method":"spawn","params":{}})"}) {
    CAPTURE(text);
    CHECK(messages.check(text) == Verdict::kDrop);
  }
  CHECK(messages.check(R"({"jsonrpc":"2.0","id":0,"result":{"ok":1}})") == Verdict::kPass);
}

TEST_CASE("an error has the members that the client's decoder can take") {
  json good{
      {"constructorName", "NotFound"}, {"message", "m"}, {"code", "ENOENT"}, {"stack", nullptr}};
  CHECK(is_error_object(good));
  json nested = good;
  nested["cause"] = good;
  nested["errors"] = json::array({good});
  CHECK(is_error_object(nested));
  for (const char* name : {"constructorName", "message", "code", "stack", "name", "cause", "errors",
                           "suppressed", "error"}) {
    json bad = good;
    bad[name] = 1;
    CAPTURE(name);
    CHECK_FALSE(is_error_object(bad));
  }
  json exception{{"constructorName", "DOMException"}, {"message", "m"}, {"name", "AbortError"}};
  CHECK(is_error_object(exception));
  exception["code"] = "x";
  CHECK_FALSE(is_error_object(exception));
  json deep = good;
  for (int i = 0; i < 20; i++)
    deep = json{{"constructorName", "E"}, {"message", ""}, {"cause", deep}};
  CHECK_FALSE(is_error_object(deep));
}

TEST_CASE("streams go start, chunks, end, with numbers of this connection") {
  GuestMessages messages(kBase);
  uint64_t id = kBase + 3;
  json data{{"data", "YWI="}};
  CHECK(messages.check(stream_message("enqueue", id, data)) == Verdict::kDrop);
  CHECK(messages.check(stream_message("end", id)) == Verdict::kDrop);
  CHECK(messages.check(stream_message("start", id)) == Verdict::kPass);
  CHECK(messages.check(stream_message("start", id)) == Verdict::kDrop);
  CHECK(messages.check(stream_message("enqueue", id, data)) == Verdict::kPass);
  for (const json& wrong : {json(""), json("YQ"), json("Y?=="), json(1), json("====")})
    CHECK(messages.check(stream_message("enqueue", id, {{"data", wrong}})) == Verdict::kDrop);
  CHECK(messages.check(stream_message("error", id)) == Verdict::kDrop);
  CHECK(messages.check(stream_message("end", id)) == Verdict::kPass);
  CHECK(messages.check(stream_message("end", id)) == Verdict::kDrop);
  CHECK(messages.check(stream_message("start", id)) == Verdict::kPass);
  CHECK(messages.check(stream_message("error", id, {{"error", nullptr}})) == Verdict::kPass);
}

TEST_CASE("nothing of a stream passes after the client has cancelled it") {
  GuestMessages messages(kBase);
  CHECK(messages.check(stream_message("start", kBase)) == Verdict::kPass);
  messages.note_client("", "\"$sandbox.stream.cancel\"", std::to_string(kBase));
  CHECK(messages.check(stream_message("enqueue", kBase, {{"data", "YWI="}})) == Verdict::kLate);
  CHECK(messages.check(stream_message("end", kBase)) == Verdict::kLate);
  CHECK(messages.check(stream_message("end", kBase)) == Verdict::kDrop);
  // A cancel of what never began is none.
  messages.note_client("", "\"$sandbox.stream.cancel\"", std::to_string(kBase + 1));
  CHECK(messages.check(stream_message("enqueue", kBase + 1, {{"data", "YWI="}})) == Verdict::kDrop);
}

TEST_CASE("a stream of another connection is a breach, in notifications and in answers") {
  for (uint64_t id : {uint64_t{0}, kBase - 1, kBase + kStreamsPerConnection}) {
    GuestMessages messages(kBase);
    for (const char* name : {"start", "enqueue", "end", "error"})
      CHECK(messages.check(stream_message(name, id, {{"data", "YWI="}})) == Verdict::kBreach);
    messages.note_client("1", "\"spawn\"", "");
    messages.note_client("2", "\"walk\"", "");
    messages.note_client("3", "\"denoReplEval\"", "");
    CHECK(messages.check(
              answer(1, {{"ok", {{"stdoutStreamId", id}, {"stderrStreamId", nullptr}}}})) ==
          Verdict::kBreach);
    CHECK(messages.check(answer(2, {{"ok", {{"streamId", id}}}})) == Verdict::kBreach);
    // There it is only a value.
    CHECK(messages.check(answer(3, {{"ok", {{"streamId", id}}}})) == Verdict::kPass);
  }
  GuestMessages messages(kBase);
  messages.note_client("1", "\"spawn\"", "");
  CHECK(messages.check(
            answer(1, {{"ok", {{"stdoutStreamId", kBase}, {"stderrStreamId", nullptr}}}})) ==
        Verdict::kPass);
}

TEST_CASE("a cancel names the client's stream; a restart its watcher") {
  GuestMessages messages(kBase);
  CHECK(messages.check(stream_message("cancel", 0, {{"reason", nullptr}})) == Verdict::kPass);
  CHECK(messages.check(stream_message("cancel", 0)) == Verdict::kDrop);
  CHECK(messages.check(stream_message("cancel", -1, {{"reason", nullptr}})) == Verdict::kDrop);
  auto restart = [&](const json& params) {
    return messages.check(json{
        {"jsonrpc", "2.0"},
        {"method", "$sandbox.deno.watcher.restart"},
        {"params", params}}.dump());
  };
  CHECK(restart({{"watcherId", "x"}}) == Verdict::kPass);
  CHECK(restart({{"watcherId", 1}}) == Verdict::kDrop);
  CHECK(messages.check(R"({"jsonrpc":"2.0","method":"other","params":{"streamId":0}})") ==
        Verdict::kDrop);
}

TEST_CASE("more calls than may be under way close the connection") {
  Recorder output;
  Relay relay(kBase, output);
  for (size_t i = 0; i <= GuestMessages::kMaxCalls; i++) {
    relay.from_client(fmt::format(R"({{"jsonrpc":"2.0","id":{},"method":"m"}})", i), true);
    relay.wrote(relay.to_guest().size());
    CHECK((output.closed == 1008) == (i == GuestMessages::kMaxCalls));
  }
}

TEST_CASE("ping is answered here, in however many parts, and nothing else is taken for it") {
  Recorder output;
  Relay relay(kBase, output);
  relay.from_client("ping", true);
  relay.from_client("pi", false);
  relay.from_client("ng", true);
  CHECK(output.pongs == 2);
  CHECK(relay.to_guest().empty());
  relay.from_client("ping ", true);
  CHECK(output.pongs == 2);
  CHECK(relay.to_guest() == piece("ping "));
}

TEST_CASE("a client's message is cut into pieces as it arrives") {
  Recorder output;
  Relay relay(kBase, output);
  relay.from_client("{\"id\":", false);
  CHECK(relay.to_guest() == piece("{\"id\":", true));
  relay.wrote(relay.to_guest().size());
  relay.from_client("1}", false);
  CHECK(relay.to_guest() == piece("1}", true));
  relay.wrote(relay.to_guest().size());
  relay.from_client("", true);
  CHECK(relay.to_guest() == piece(" "));
}

TEST_CASE("a long answer passes in parts; one that goes wrong ends the connection") {
  std::string start = R"({"jsonrpc":"2.0","id":1,"result":{"ok":")";
  std::string body(Relay::kHold, 'x');
  struct Case {
    std::string end;
    bool good;
  };
  for (const Case& each : {Case{"\"}}", true}, Case{"\"}", false}, Case{"\"},\"id\":2}", false},
                           Case{"\",\"error\":null}}", false}, Case{"\"}}x", false}}) {
    CAPTURE(each.end);
    Recorder output;
    Relay relay(kBase, output);
    relay.from_client(R"({"jsonrpc":"2.0","id":1,"method":"readFile"})", true);
    relay.from_guest(piece(start, true) + piece(body, true) + piece(each.end));
    CHECK(output.messages.size() == (each.good ? 1 : 0));
    CHECK(output.closed == (each.good ? 0 : 1011));
    if (each.good) CHECK(output.messages[0] == start + body + each.end);
  }
}

TEST_CASE("a long message that is no answer to a call is dropped, and what follows is not") {
  Recorder output;
  Relay relay(kBase, output);
  relay.from_client(R"({"jsonrpc":"2.0","id":1,"method":"readFile"})", true);
  std::string long_text = R"({"jsonrpc":"2.0","id":2,"result":{"ok":")" + std::string(100, 'x');
  relay.from_guest(piece(long_text, true) + piece(std::string(Relay::kHold, 'x'), true) +
                   piece("\"}}"));
  CHECK(relay.dropped() == 1);
  relay.from_guest(piece(answer(1, {{"ok", 1}})));
  CHECK(output.messages.size() == 1);
  CHECK(output.closed == 0);
}

TEST_CASE("a message with anything behind a zero byte is dropped") {
  Recorder output;
  Relay relay(kBase, output);
  relay.from_client(R"({"id":1,"method":"envSet"})", true);
  relay.wrote(relay.to_guest().size());
  std::string good = answer(1, {{"ok", nullptr}});
  using namespace std::string_literals;
  for (const std::string& wrong : {good + "\0"s, good + "\0{}"s, "\0"s + good, good + "\0\0 x"s})
    relay.from_guest(piece(wrong));
  CHECK(output.messages.empty());
  CHECK(relay.dropped() == 4);
  relay.from_guest(piece(good));
  CHECK(output.messages == std::vector<std::string>{good});
}
