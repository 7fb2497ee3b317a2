// Server: the agent's life. Owns the loop, the reaper and the sessions with the host.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "guest-agent/session.h"

namespace hutch::agent {

// Starts to connect to the host (vsock CID 2, kHostPort) without waiting for it; the kernel tries
// for at most `limit`.
Result<Fd> dial_host(std::chrono::seconds limit);
// Listens on `address`, "IPv4:PORT" or "[IPv6]:PORT"; port 0 lets the kernel choose.
Result<Fd> listen_on(const std::string& address);
// The port that a listening socket got.
Result<uint16_t> port_of(const Fd& listener);

// The running program, to be executed again wherever the root has moved to. Call it while /proc is
// mounted; a closed descriptor where it is not.
Fd open_own_program();

class Server {
 public:
  // `cgroup_mount`: where cgroup2 is mounted; empty: processes get no groups of their own.
  // `program`: the agent's own, see open_own_program().
  static Result<std::unique_ptr<Server>> create(SessionOptions options,
                                                const std::string& cgroup_mount, Fd program);

  // Makes the next connection to the host; a closed descriptor when there is none.
  using Dial = std::function<Result<Fd>()>;
  // Serves one connection, and when it was lost the one that `dial_again` makes, for as long as a
  // host answers there: so a machine that was saved finds its new host when it is restored. Returns
  // when the host has gone, with what Shutdown asked for if it did, or why the host had to be
  // dropped.
  Result<std::optional<protocol::agent::ShutdownKind>> serve(Fd connection, const Dial& dial_again);
  // Serves every connection that comes. Returns when one asked for a shutdown.
  Result<std::optional<protocol::agent::ShutdownKind>> serve_all(Fd listener);

 private:
  explicit Server(SessionOptions options) : options_(std::move(options)) {}
  Result<std::weak_ptr<Outbox>> add(Fd connection, SessionOptions options);
  void accept_one(int listener);
  Result<void> run_round();
  void drop_ended();

  const SessionOptions options_;
  std::unique_ptr<Loop> loop_;
  std::unique_ptr<Reaper> reaper_;
  Cgroups cgroups_;
  std::unique_ptr<Freezer> freezer_;
  std::unique_ptr<Services> services_;
  std::vector<std::shared_ptr<Session>> sessions_;
  std::optional<protocol::agent::ShutdownKind> shutdown_;
};

}  // namespace hutch::agent
