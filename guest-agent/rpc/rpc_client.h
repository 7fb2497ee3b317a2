// A client of the service for its tests: the real agent program, as on a guest, with the service
// and one process for each client.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "guest-agent/rpc/failure.h"
#include "guest-agent/rpc/framing.h"
#include "guest-agent/test_client.h"

namespace hutch::agent::rpc {

// The agent, and in it the service under a name of its own.
class Sandbox {
 public:
  // `environment`: of the service, "NAME=value".
  explicit Sandbox(std::vector<std::string> environment = {}, const AgentOptions& options = {});

  TestClient agent;
  std::string name;
  uint32_t service_channel = 0;
};

struct Received {
  std::string bytes;
  std::vector<std::string> chunks;
  bool started = false, ended = false;
  Json error;  // of an error notification
};

class RpcClient {
 public:
  explicit RpcClient(Sandbox& sandbox, uint64_t stream_base = uint64_t{7} << 20);

  // Sends a call and returns its number.
  int send(const std::string& method, const Json& params = Json::object());
  // `result` of the answer to a call. Fails the test when none comes.
  Json wait(int id);
  bool has_answer(int id);
  // The value of a call that must succeed.
  Json call(const std::string& method, const Json& params = Json::object());
  // The error of a call that must fail, "Class/CODE".
  std::string error(const std::string& method, const Json& params = Json::object());
  std::string last_message() const { return last_message_; }

  void notify(const std::string& method, const Json& params);
  void start_stream(uint64_t id) { notify("$sandbox.stream.start", {{"streamId", id}}); }
  void send_chunk(uint64_t id, const std::string& bytes);
  void end_stream(uint64_t id) { notify("$sandbox.stream.end", {{"streamId", id}}); }
  Received& stream(const Json& id) { return streams_[id.get<uint64_t>()]; }
  // Until the stream has ended.
  const Received& wait_stream(const Json& id);
  // Starts a process and waits for its end; `result` gets what processWait says.
  std::string run(const Json& params, Json* result = nullptr);
  bool wait_for(const std::function<bool()>& condition);
  // Bytes as they are.
  void send_raw(std::string_view bytes);
  void close();
  const std::vector<Json>& cancels() const { return cancels_; }
  const std::vector<Json>& restarts() const { return restarts_; }
  uint32_t channel() const { return channel_; }

 private:
  void take_new();
  void send_message(const std::string& text);

  Sandbox& sandbox_;
  const uint32_t channel_;
  size_t taken_ = 0;         // bytes of the agent's output
  uint64_t input_sent_ = 0;  // bytes, against the agent's credit
  MessageReader reader_;
  int next_id_ = 0;
  std::map<int, Json> answers_;
  std::map<uint64_t, Received> streams_;
  std::vector<Json> cancels_, restarts_;
  std::string last_message_;
};

}  // namespace hutch::agent::rpc
