// TestClient: a host for the real agent program, which it starts in test mode; for tests only.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "protocol/agent.h"

namespace hutch::agent {

// Everything that has come on one channel.
struct Answer {
  std::optional<protocol::agent::Started> started;
  std::optional<protocol::agent::Failed> failed;
  std::optional<protocol::agent::Exited> exited;
  std::optional<protocol::agent::Done> done;
  std::string output[3];       // of streams 1 and 2
  bool ended[3] = {};          // of streams 1 and 2
  std::string before_exit[3];  // what had come when Exited came
  uint64_t input_credit = 0;   // given back
};

// How the program under test is started.
struct AgentOptions {
  std::optional<uid_t> user = {};  // whom it runs as; only root can choose
  size_t further_connections = 0;  // that wait for it when one is lost
  std::string cgroups = {};        // a folder of cgroup2 in which it makes its groups
  // It sets what Hello says of the system, in mounts of its own: /etc and /run are empty there.
  bool owns_system = false;
};
// Whether this host lets a test have AgentOptions::owns_system.
bool can_own_system();

class TestClient {
 public:
  // Starts the program that the environment variable HUTCH_AGENT names, connected to this client.
  TestClient() : TestClient(AgentOptions{}) {}
  explicit TestClient(uid_t user) : TestClient(AgentOptions{.user = user}) {}
  explicit TestClient(const AgentOptions& options);
  ~TestClient();

  // Takes over a connected socket instead.
  static std::unique_ptr<TestClient> on_socket(Fd socket);

  void send(protocol::agent::FrameType type, uint32_t channel,
            std::span<const std::byte> payload = {});
  template <typename T>
  void send_message(protocol::agent::FrameType type, uint32_t channel, const T& message) {
    send(type, channel, protocol::agent::encode(message));
  }
  void send_text(protocol::agent::FrameType type, uint32_t channel, std::string_view text);
  // Bytes as they are, for what is no frame.
  void send_raw(std::span<const std::byte> bytes);

  // Says Hello and waits for the reply.
  protocol::agent::HelloReply greet(const protocol::agent::Hello& hello = {});
  // Starts `request` on the next channel; returns that.
  uint32_t spawn(const protocol::agent::Spawn& request);
  uint32_t shell(const std::string& script);
  uint32_t read_file(const protocol::agent::ReadFile& request);
  uint32_t write_file(const protocol::agent::WriteFile& request);

  // Receives until `condition` holds. False when the agent has hung up, or after half a minute.
  bool wait(const std::function<bool()>& condition);
  // Until the channel is over: failed, done, or exited and all its output has ended.
  const Answer& wait_for_end(uint32_t channel);
  const Answer& wait_for_exit(uint32_t channel);
  // The connection is lost; the next of AgentOptions::further_connections is this client's. What
  // had come is forgotten, and channels are numbered as by a host that adopts.
  void lose_connection();
  const std::optional<protocol::agent::Frozen>& frozen() const { return frozen_; }
  const std::optional<protocol::agent::Thawed>& thawed() const { return thawed_; }
  // Asks for it and waits for the answer, which it returns.
  std::string freeze();
  std::string thaw();
  // Runs to the end.
  const Answer& run(const protocol::agent::Spawn& request) { return wait_for_end(spawn(request)); }
  const Answer& run_shell(const std::string& script) { return wait_for_end(shell(script)); }
  // Whether the agent ends the connection.
  bool wait_for_hang_up();

  Answer& operator[](uint32_t channel) { return answers_[channel]; }
  // Gives credit back for output as it comes; on at first.
  void set_generous(bool generous) { generous_ = generous; }
  pid_t agent() const { return agent_; }
  // Closes the connection and waits for the agent to end; returns the status of waitpid(2).
  int hang_up();
  // What the agent wrote to its standard error; after hang_up().
  std::string log() const;

 private:
  explicit TestClient(Fd socket) : socket_(std::move(socket)) {}
  bool receive(std::chrono::steady_clock::time_point limit);
  void take(const protocol::agent::Frame& frame);

  Fd socket_;
  Fd log_;
  pid_t agent_ = -1;
  uint32_t next_channel_ = 1;
  bool generous_ = true;
  bool hung_up_ = false;
  std::deque<Fd> further_;
  std::optional<protocol::agent::HelloReply> hello_;
  std::optional<protocol::agent::Frozen> frozen_;
  std::optional<protocol::agent::Thawed> thawed_;
  protocol::agent::FrameReader reader_;
  std::map<uint32_t, Answer> answers_;
};

// The program under test.
std::string agent_program();
// The user that the tests run as, for requests: an agent without privileges serves only its own.
std::string self();
// Waits for `condition`, asking again and again, for at most half a minute.
bool eventually(const std::function<bool()>& condition);

}  // namespace hutch::agent
