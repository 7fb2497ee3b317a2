// The processes of the sandbox: started through the agent, known by their process id, shared by all
// connections. The loop's thread only.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "guest-agent/rpc/agent_link.h"
#include "guest-agent/rpc/connection.h"
#include "guest-agent/rpc/environment.h"

namespace hutch::agent::rpc {

// What a call may say about a process besides what to run.
struct StartOptions {
  std::vector<std::string> arguments;  // the program, too
  bool agent_program = false;          // see protocol::agent::Spawn
  Variables environment;
  bool clear_environment = false;
  std::string working_directory;  // absolute, or empty: the home
  std::shared_ptr<InboundStream> input;
  bool output_piped = true, error_piped = true;
  // Sees what the process writes to its standard error, piped or not.
  std::function<void(std::string_view)> error_tap;
};

// Reads env, clearEnv, cwd, stdinStreamId, stdout and stderr. Throws Failure.
StartOptions read_start_options(const Json& params, Connection& connection);
// The number of a signal such as "SIGTERM". Throws Failure when there is none.
uint32_t signal_number(const std::string& name);

class Processes;

class Process {
 public:
  uint32_t id() const { return id_; }
  bool is_over() const { return exit_.has_value(); }
  // Runs when the process has ended; at once when it has already.
  void on_exit(std::function<void()> function);
  // The ids of its output streams for an answer: a number or null.
  Json output_stream() const { return stream_id(0); }
  Json error_stream() const { return stream_id(1); }

 private:
  friend class Processes;
  Json stream_id(size_t index) const;
  Json wait_result() const;

  uint32_t id_ = 0;
  uint32_t channel_ = 0;
  std::weak_ptr<Connection> connection_;
  StartOptions options_;
  std::shared_ptr<OutboundStream> streams_[2];
  std::optional<protocol::agent::Exited> exit_;
  std::vector<std::shared_ptr<Call>> waiting_;
  std::vector<std::function<void()>> on_exit_;
};

class Processes {
 public:
  Processes(AgentLink& link, Environment& environment) : link_(link), environment_(environment) {}

  // Starts a process for `call`. `started` answers the call, once the process runs, and then
  // releases its streams; a failure is answered here. Throws Failure.
  void start(const std::shared_ptr<Call>& call, StartOptions options,
             std::function<void(const std::shared_ptr<Process>&)> started);
  // Null when there is none that runs.
  std::shared_ptr<Process> find_running(int64_t process_id) const;
  void signal(const Process& process, uint32_t number);
  // The call that started the process has its answer: its streams start, once the client asks for
  // the process's end or has had the time to.
  static void release_streams(Process& process);
  // The call has failed instead, and nobody knows of the streams.
  static void drop_streams(Process& process);

  // The methods.
  void spawn(const std::shared_ptr<Call>& call);
  void wait(const std::shared_ptr<Call>& call);
  void kill(const std::shared_ptr<Call>& call);

 private:
  void take_output(const std::shared_ptr<Process>& process, int stream, std::string bytes);
  void open_streams(const std::shared_ptr<Process>& process);
  void feed(const std::shared_ptr<Process>& process);
  void finish(const std::shared_ptr<Process>& process, const protocol::agent::Exited& exit);

  AgentLink& link_;
  Environment& environment_;
  // The newest of each number; those that have ended, oldest first, stay to be asked for.
  std::unordered_map<int64_t, std::shared_ptr<Process>> processes_;
  std::deque<std::weak_ptr<Process>> ended_;
};

}  // namespace hutch::agent::rpc
