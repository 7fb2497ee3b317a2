// Deno programs: runs, REPLs, and when their HTTP servers listen. The loop's thread only.
//
// Each gets a folder of its own with the socket that its HTTP server listens on besides its port
// (DENO_SERVE_ADDRESS). A REPL's process first connects to the service (mode rpc-repl, modes.h) and
// so brings the socket over which Deno takes code as JSON.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <unordered_map>

#include "guest-agent/rpc/processes.h"
#include "guest-agent/rpc/repl.h"
#include "guest-agent/rpc/temporary_folder.h"

namespace hutch::agent::rpc {

class Deno {
 public:
  // `socket_name`: of the service, for the processes of REPLs.
  Deno(Loop& loop, Processes& processes, Environment& environment, Workers& waiters,
       std::string socket_name)
      : loop_(loop),
        processes_(processes),
        environment_(environment),
        waiters_(waiters),
        socket_name_(std::move(socket_name)) {}

  // The process of a REPL has connected and shown its token.
  void take_repl(const std::string& token, Fd socket);
  // The service ends: the folders go.
  void forget_all() { programs_.clear(); }
  // Where the HTTP server of a Deno process listens. Throws Failure when there is no such process.
  std::string http_socket(int64_t process_id) const;

  // The methods.
  void run(const std::shared_ptr<Call>& call);
  void wait_for_http(const std::shared_ptr<Call>& call);
  void start_repl(const std::shared_ptr<Call>& call);
  void close_repl(const std::shared_ptr<Call>& call);
  void evaluate(const std::shared_ptr<Call>& call);
  void call_function(const std::shared_ptr<Call>& call);

 private:
  struct Program {
    std::shared_ptr<TemporaryFolder> folder;
    std::shared_ptr<Process> process;
    std::shared_ptr<Repl> repl;
  };

  // What all Deno processes have in common; the folder goes when neither an option nor a program
  // holds it any more.
  StartOptions prepare(const std::shared_ptr<Call>& call, const TemporaryFolder& folder);
  void add(const std::shared_ptr<Process>& process, Program program);
  const Program& find(const Json& params) const;
  const Program& find_repl(const Json& params) const;
  void poll_http(const std::shared_ptr<Call>& call, const std::shared_ptr<Process>& process,
                 const std::string& socket, std::chrono::milliseconds interval);
  void after(std::chrono::milliseconds delay, std::function<void()> function);

  Loop& loop_;
  Processes& processes_;
  Environment& environment_;
  Workers& waiters_;
  const std::string socket_name_;
  std::unordered_map<int64_t, Program> programs_;
  std::unordered_map<std::string, std::weak_ptr<Repl>> expected_;  // by token
  std::unordered_map<uint64_t, Watch> timers_;
  uint64_t next_timer_ = 1;
};

}  // namespace hutch::agent::rpc
