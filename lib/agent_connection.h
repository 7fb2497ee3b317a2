// AgentConnection: an AgentClient on a connected stream socket.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lib/agent_client.h"
#include "lib/poller.h"

namespace hutch::lib {

struct HelloOptions {
  bool set_clock = false;
  std::string host_name = {};
  std::string token = {};
  // For a machine that was restored from a saved one: it gets a machine id and a boot id of its
  // own.
  bool renew = false;
  std::string mac = {};  // 6 bytes for its network device; empty: it keeps what it has
  bool adopt = false;    // its service is AgentClient::kAdoptedService from now on, with
  std::vector<std::string> service_environment = {};  // "NAME=value"
};
// The host's greeting, with fresh random bytes and, with `set_clock`, the time of this moment. An
// error only when the kernel gives no random bytes to a machine that needs them (`renew`).
Result<protocol::agent::Hello> make_hello(const HelloOptions& options);

class AgentConnection final : public OutputOwner {
 public:
  // Watches `socket` with `tag`. `poller` must outlive the connection.
  static Result<std::shared_ptr<AgentConnection>> create(Poller& poller, uint32_t tag, Fd socket);
  ~AgentConnection() override;
  AgentConnection(const AgentConnection&) = delete;
  AgentConnection& operator=(const AgentConnection&) = delete;

  AgentClient& client() { return client_; }
  // Takes an OUTPUT event's credit back and sends it on.
  void acknowledge(hutch_task task, int stream, size_t size) override;
  // Sends and receives what can be without waiting.
  void pump();
  // Sends what waits. To be called after each request to client().
  void flush();

  bool is_open() const { return socket_.is_open(); }
  // After is_open() turned false: why, when the agent or the socket is at fault; nothing when the
  // peer has merely closed.
  const std::optional<Error>& failure() const { return failure_; }
  // Ends the connection because of `reason`.
  void drop(Error reason);

 private:
  AgentConnection(Poller& poller, uint32_t tag, Fd socket);
  void close();
  void receive();

  Poller& poller_;
  const uint32_t tag_;
  Fd socket_;
  AgentClient client_;
  std::optional<Error> failure_;
  bool watches_output_ = false;
};

}  // namespace hutch::lib
