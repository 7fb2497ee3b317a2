// Deno programs: runs, REPLs, and when their HTTP servers listen. The loop's thread only.
//
// Each gets a folder of its own with the socket that its HTTP server listens on besides its port
// (DENO_SERVE_ADDRESS). A REPL's process first connects to the service (mode rpc-repl, modes.h) and
// so brings the socket over which Deno takes code as JSON.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

#include "guest-agent/rpc/processes.h"
#include "guest-agent/rpc/workers.h"

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
  struct Repl {
    std::mutex mutex;  // one evaluation at a time
    Fd socket;
  };
  struct Program {
    std::string folder;
    std::shared_ptr<Process> process;
    std::shared_ptr<Repl> repl;
  };
  struct Expected {
    std::shared_ptr<Repl> repl;
    std::function<void()> arrived;
  };

  StartOptions prepare(const std::shared_ptr<Call>& call, std::string& folder);
  void add(const std::shared_ptr<Process>& process, const std::string& folder,
           std::shared_ptr<Repl> repl);
  const Program& find(const Json& params) const;
  void poll_http(const std::shared_ptr<Call>& call, const std::shared_ptr<Process>& process,
                 const std::string& socket);
  void evaluate_code(const std::shared_ptr<Call>& call, std::string code);

  Loop& loop_;
  Processes& processes_;
  Environment& environment_;
  Workers& waiters_;
  const std::string socket_name_;
  std::unordered_map<int64_t, Program> programs_;
  std::unordered_map<std::string, Expected> expected_;  // by token
  std::unordered_map<uint64_t, Watch> polls_;
  uint64_t next_poll_ = 1;
};

}  // namespace hutch::agent::rpc
