// Repl: one Deno REPL, which takes code as JSON over a socket. Evaluations run one at a time, in
// the order of their calls.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>

#include "base/fd.h"
#include "guest-agent/rpc/connection.h"
#include "guest-agent/rpc/workers.h"

namespace hutch::agent::rpc {

// The loop's thread only, as far as nothing else is said.
class Repl : public std::enable_shared_from_this<Repl> {
 public:
  explicit Repl(Workers& waiters) : waiters_(waiters) {}

  // Deno's end of the socket is in its process.
  void connect(Fd socket);
  bool is_connected() const { return static_cast<bool>(socket_); }
  // Runs when the socket is there.
  void set_on_connected(std::function<void()> on_connected) {
    on_connected_ = std::move(on_connected);
  }
  // Answers `call` with the value of `code`, as far as JSON has it, or with what it throws.
  void evaluate(const std::shared_ptr<Call>& call, std::string code);
  // Ends the REPL, when it is through with what it evaluates. False: it evaluates.
  bool finish();

 private:
  struct Evaluation {
    std::shared_ptr<Call> call;
    std::string code;
  };
  void run_next();
  // On a worker, the only one that uses the socket:
  std::string value_of(const std::string& code);
  Json exchange(const std::string& code, bool wants_output);
  void send_all(std::string_view bytes);
  void receive_all(char* bytes, size_t size);
  [[noreturn]] void throw_thrown();

  Workers& waiters_;
  Fd socket_;
  std::function<void()> on_connected_;
  std::deque<Evaluation> waiting_;
  bool busy_ = false;
  bool is_prepared_ = false;  // the worker's
};

}  // namespace hutch::agent::rpc
