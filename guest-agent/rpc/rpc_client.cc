#include "guest-agent/rpc/rpc_client.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>

#include "base/wire.h"
#include "guest-agent/rpc/codecs.h"

namespace hutch::agent::rpc {

using namespace protocol::agent;  // NOLINT: the wire's names

namespace {

// As the control plane wants it: what is not so never reaches the client.
void check_error(const Json& error) {
  CHECK(error["constructorName"].is_string());
  CHECK(error["message"].is_string());
  CHECK(error.dump().size() < 500'000);
  CHECK_FALSE((error["constructorName"] == "DOMException" && error.contains("code")));
  for (const auto& [key, value] : error.items()) {
    CHECK(value.is_string());
    CHECK(std::string(" constructorName message code name stack ").find(" " + key + " ") !=
          std::string::npos);
  }
}

void check_answer(const Json& message, const std::string& text) {
  const Json& result = message["result"];
  REQUIRE(result.size() == 1);
  bool is_ok = result.contains("ok");
  CHECK(text.starts_with(R"({"jsonrpc":"2.0","id":)" + message["id"].dump() + R"(,"result":{")" +
                         (is_ok ? "ok" : "error") + "\":"));
  if (!is_ok) check_error(result["error"]);
}

}  // namespace

Sandbox::Sandbox(std::vector<std::string> environment, const AgentOptions& options)
    : agent(options) {
  static int number = 0;
  name = "hutch-rpc-test-" + std::to_string(::getpid()) + "-" + std::to_string(number++);
  agent.greet();
  service_channel = agent.spawn({.arguments = {"rpc", name},
                                 .environment = std::move(environment),
                                 .user = self(),
                                 .open_input = true,
                                 .agent_program = true});
  REQUIRE(agent.wait([&] { return agent[service_channel].output[1] == "ready\n"; }));
}

RpcClient::RpcClient(Sandbox& sandbox, uint64_t stream_base)
    : sandbox_(sandbox),
      channel_(sandbox.agent.spawn(
          {.arguments = {"rpc-attach", std::to_string(stream_base), sandbox.name},
           .user = self(),
           .open_input = true,
           .agent_program = true})) {
  REQUIRE(sandbox_.agent.wait([&] { return sandbox_.agent[channel_].started.has_value(); }));
}

void RpcClient::send_raw(std::string_view bytes) {
  while (!bytes.empty()) {
    auto room = [&] {
      return kInitialCredit + sandbox_.agent[channel_].input_credit - input_sent_;
    };
    REQUIRE(wait_for([&] { return room() > 0; }));
    auto part = bytes.substr(0, std::min<size_t>(room(), kMaxPayload));
    sandbox_.agent.send_text(FrameType::kInput, channel_, part);
    input_sent_ += part.size();
    bytes.remove_prefix(part.size());
  }
}

// In pieces, as a control plane may send it.
void RpcClient::send_message(const std::string& text) {
  for (std::string_view rest = text; !rest.empty();) {
    std::string_view piece = rest.substr(0, std::min<size_t>(kMaxPiece, (rest.size() + 1) / 2));
    rest.remove_prefix(piece.size());
    le32 size = static_cast<uint32_t>(piece.size()) | (rest.empty() ? 0U : 1U << 31);
    send_raw(std::string(reinterpret_cast<const char*>(&size), sizeof size));
    send_raw(piece);
  }
}

void RpcClient::notify(const std::string& method, const Json& params) {
  send_message(Json{{"jsonrpc", "2.0"}, {"method", method}, {"params", params}}.dump());
}

int RpcClient::send(const std::string& method, const Json& params) {
  int id = next_id_++;
  send_message(Json{{"jsonrpc", "2.0"}, {"id", id}, {"method", method}, {"params", params}}.dump());
  return id;
}

void RpcClient::take_new() {
  const std::string& output = sandbox_.agent[channel_].output[1];
  std::string_view input = std::string_view(output).substr(taken_);
  taken_ = output.size();
  while (auto text = reader_.next(input)) {
    last_message_ = *text;
    Json message = Json::parse(*text);
    CHECK(message["jsonrpc"] == "2.0");
    CHECK(message.size() == 3);
    if (message.contains("id")) {
      check_answer(message, *text);
      answers_[message["id"]] = message["result"];
      continue;
    }
    std::string method = message["method"];
    const Json& params = message["params"];
    bool has_error = method == "$sandbox.stream.error", is_cancel = method.ends_with(".cancel");
    CHECK(params.size() == (has_error || is_cancel || method.ends_with(".enqueue") ? 2 : 1));
    if (has_error) check_error(params["error"]);
    if (is_cancel) check_error(params["reason"]);
    if (method == "$sandbox.deno.watcher.restart") {
      restarts_.push_back(params);
      continue;
    }
    if (method == "$sandbox.stream.cancel") {
      cancels_.push_back(params);
      continue;
    }
    Received& stream = streams_[params["streamId"]];
    CHECK_FALSE(stream.ended);
    if (method == "$sandbox.stream.start") {
      CHECK_FALSE(stream.started);
      stream.started = true;
      continue;
    }
    CHECK(stream.started);
    if (method == "$sandbox.stream.enqueue") {
      std::string bytes = params["data"];
      CHECK_FALSE(bytes.empty());
      CHECK(decode_base64(bytes));
      stream.bytes += bytes;
      stream.chunks.push_back(bytes);
    } else if (method == "$sandbox.stream.error") {
      stream.error = params["error"];
      stream.ended = true;
    } else {
      CHECK(method == "$sandbox.stream.end");
      stream.ended = true;
    }
  }
}

bool RpcClient::wait_for(const std::function<bool()>& condition) {
  return sandbox_.agent.wait([&] {
    take_new();
    return condition();
  });
}

bool RpcClient::has_answer(int id) {
  take_new();
  return answers_.contains(id);
}

Json RpcClient::wait(int id) {
  REQUIRE(wait_for([&] { return answers_.contains(id); }));
  Json result = answers_[id];
  answers_.erase(id);
  return result;
}

Json RpcClient::call(const std::string& method, const Json& params) {
  Json result = wait(send(method, params));
  INFO(method, " ", params.dump().substr(0, 300), " -> ", result.dump().substr(0, 300));
  REQUIRE(result.contains("ok"));
  return result["ok"];
}

std::string RpcClient::error(const std::string& method, const Json& params) {
  Json result = wait(send(method, params));
  INFO(method, " ", params.dump(), " -> ", result.dump().substr(0, 300));
  REQUIRE(result.contains("error"));
  const Json& error = result["error"];
  last_message_ = error["message"];
  std::string text = error["constructorName"];
  if (error.contains("code")) text += "/" + error["code"].get<std::string>();
  return text;
}

void RpcClient::send_chunk(uint64_t id, const std::string& bytes) {
  notify("$sandbox.stream.enqueue", {{"streamId", id}, {"data", to_base64(bytes)}});
}

const Received& RpcClient::wait_stream(const Json& id) {
  Received& received = stream(id);
  REQUIRE(wait_for([&] { return received.ended; }));
  return received;
}

std::string RpcClient::run(const Json& params, Json* result) {
  Json process = call("spawn", params);
  Json exit = call("processWait", {{"pid", process["pid"]}});
  if (result != nullptr) *result = exit;
  return process["stdoutStreamId"].is_null() ? "" : wait_stream(process["stdoutStreamId"]).bytes;
}

void RpcClient::close() {
  sandbox_.agent.send(FrameType::kInputEnd, channel_);
}

}  // namespace hutch::agent::rpc
