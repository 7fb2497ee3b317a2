// One machine of another monitor, from its process to the answer of its agent.
#pragma once

#include <hutch.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "bench/child.h"
#include "bench/echo.h"
#include "bench/peers.h"

namespace hutch::bench {

class PeerRun {
 public:
  // Makes what must be there before, but no process. Throws BenchFailure, as all here.
  PeerRun(const Peer& peer, const PeerMachine& machine);
  // Kills it.
  ~PeerRun();
  PeerRun(const PeerRun&) = delete;
  PeerRun& operator=(const PeerRun&) = delete;

  // The process, its agent, and the answer to `echo hello`.
  void start_and_echo();
  // Kills it and waits until it is gone.
  void end();

  // Of CLOCK_MONOTONIC; nothing: not seen.
  std::optional<uint64_t> init_ns() const { return init_ns_; }
  std::optional<uint64_t> agent_ns() const { return agent_ns_; }

 private:
  void listen_for_agent();
  void wait_for_agent();
  void wait(hutch_task task, const IsDone& is_done);
  // Waits for one of the two, and takes the boot mark when it comes.
  bool poll_with_mark(int fd);
  [[noreturn]] void fail(const std::string& what) const;

  Peer peer_;
  PeerStart start_;
  Child child_;
  Fd listener_;
  std::unique_ptr<hutch_agent, decltype(&hutch_agent_free)> agent_{nullptr, hutch_agent_free};
  std::optional<uint64_t> init_ns_, agent_ns_;
  bool output_ended_ = false;
};

}  // namespace hutch::bench
