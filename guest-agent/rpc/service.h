// Service: what answers the calls of all connections of a sandbox.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include "guest-agent/rpc/agent_link.h"
#include "guest-agent/rpc/connection.h"
#include "guest-agent/rpc/deno.h"
#include "guest-agent/rpc/environment.h"
#include "guest-agent/rpc/open_files.h"
#include "guest-agent/rpc/processes.h"
#include "guest-agent/rpc/walk.h"
#include "guest-agent/rpc/workers.h"

namespace hutch::agent::rpc {

class Service {
 public:
  // `link`: to the agent that starts processes.
  // `socket_name`: where the service can be reached.
  Service(Loop& loop, AgentLink& link, Environment environment, std::string socket_name);

  // Takes a client on; `on_end` runs when it has gone.
  Result<void> connect(Fd in, Fd out, uint64_t stream_base, std::function<void()> on_end);

  Deno& deno() { return deno_; }

 private:
  using Method = std::function<void(const std::shared_ptr<Call>&)>;
  void add_methods();
  void add_environment_methods();
  void stream_walk(const std::shared_ptr<Call>& call, Walk walk);
  void answer(const std::string& method, const std::shared_ptr<Call>& call);
  // Runs `job` on a worker; it returns the answer as JSON or throws Failure.
  void answer_from(Workers& workers, const std::shared_ptr<Call>& call,
                   std::function<std::string(Json& params)> job);

  Loop& loop_;
  Environment environment_;
  OpenFiles open_files_;
  // Their jobs use what stands above.
  Workers workers_;
  // For what waits for others: locks, and walks that their client does not follow.
  Workers waiters_;
  Processes processes_;
  Deno deno_;
  std::unordered_map<std::string, Method> methods_;
  std::unordered_set<std::shared_ptr<Connection>> connections_;
};

}  // namespace hutch::agent::rpc
