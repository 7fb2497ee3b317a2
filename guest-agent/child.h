// Starting a child process: fork into its control group, then the set-up that every child needs.
//
// A child reports what it does on a pipe, its descriptor 4, which exec closes: so the agent
// learns exactly which step failed and with what errno, and never waits for it.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>

#include "base/fd.h"
#include "guest-agent/accounts.h"
#include "protocol/agent.h"

namespace hutch::agent {

// What a child writes to its report pipe, whole, at most once of each kind.
struct Report {
  enum class Kind : uint8_t { kFailed, kOpened, kDone };
  Kind kind{};
  protocol::agent::FailureStage stage{};  // of kFailed
  int32_t error_number = 0;               // of kFailed
  bool lacks_interpreter = false;         // of kFailed: the program is there, its #! or loader not
  uint64_t size = 0;                      // of kDone: bytes transferred
};

// Where the child finds ChildDescriptors::program.
constexpr int kProgramDescriptor = 5;

// The descriptors that a child starts with. Of the first three those not given are /dev/null.
struct ChildDescriptors {
  int input = -1;
  int output = -1;
  int error = -1;
  int report = -1;
  int service = -1;       // becomes kServiceDescriptor; not given: that is closed
  int program = -1;       // stays open at kProgramDescriptor until exec
  bool terminal = false;  // `output` is a terminal, to become the controlling one
};

struct Pipe {
  Fd reader, writer;
};
// Close-on-exec and blocking.
Result<Pipe> make_pipe();

// Forks; in the control group `cgroup` unless that is -1. Returns 0 in the child, which must not
// return from its caller but end with exec or _exit.
Result<pid_t> fork_child(int cgroup);

// In the child: default signal actions, a session of its own, exactly the descriptors of
// ChildDescriptors, no protection from the out-of-memory killer. Ends the child with a report when
// a step fails.
void set_up_child(const ChildDescriptors& descriptors);
// In the child: takes on the account for good. Without privileges only one's own account works.
void become(const Account& account);

// In the child: writes a report; a failure ends it.
void report(const Report& report);
[[noreturn]] void report_failure(protocol::agent::FailureStage stage, int error_number,
                                 bool lacks_interpreter = false);

// In the agent: the next report, nothing when none is there yet or the child closed the pipe;
// `ended` tells which.
std::optional<Report> read_report(int fd, bool& ended);

}  // namespace hutch::agent
