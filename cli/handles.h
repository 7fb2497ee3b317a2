// Owners for the handles of libhutch.
#pragma once

#include <hutch.h>

#include <memory>

namespace hutch::cli {

struct HandleDeleter {
  void operator()(hutch_vm* vm) const { hutch_vm_free(vm); }
  void operator()(hutch_agent* agent) const { hutch_agent_free(agent); }
  void operator()(hutch_event* event) const { hutch_event_free(event); }
};
using VmHandle = std::unique_ptr<hutch_vm, HandleDeleter>;
using AgentHandle = std::unique_ptr<hutch_agent, HandleDeleter>;
using EventHandle = std::unique_ptr<hutch_event, HandleDeleter>;

}  // namespace hutch::cli
