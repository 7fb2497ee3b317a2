// A process that the host started: its pipes or terminal, its signals and its end.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>

#include "guest-agent/cgroups.h"
#include "guest-agent/child.h"
#include "guest-agent/freezer.h"
#include "guest-agent/pump.h"
#include "guest-agent/reaper.h"

namespace hutch::agent {

// What every operation needs of the agent; outlives them all.
struct Services {
  Services(Loop& the_loop, Reaper& the_reaper, Cgroups& the_cgroups, Freezer& the_freezer)
      : loop(the_loop), reaper(the_reaper), cgroups(the_cgroups), freezer(the_freezer) {}
  Loop& loop;
  Reaper& reaper;
  Cgroups& cgroups;
  Freezer& freezer;
  // The agent's own program, for requests that start it in another mode; not open: it cannot.
  Fd program;
  // Serves `connection` for as long as it lasts, with the rights of `user` alone. What it returns
  // is the agent's side of it.
  std::function<Result<std::weak_ptr<Outbox>>(Fd connection, std::string user)> serve;
};

// Starts the process. What fails from now on, or failed already, goes to the host as Failed.
// Dropping the operation kills the process group if the process is still there.
std::unique_ptr<Operation> start_process(Services& services, Outbox& outbox, uint32_t channel,
                                         const protocol::agent::Spawn& request);

// A Failed frame and the end of the channel.
void send_failure(Outbox& outbox, uint32_t channel, protocol::agent::FailureStage stage,
                  int error_number, std::string message);
// `message: ` and the text of an errno value.
std::string with_errno(int error_number, std::string message);
// Whether a text would reach the kernel whole: a zero byte would end it early.
bool is_c_string(std::string_view text);

}  // namespace hutch::agent
