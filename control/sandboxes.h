// All sandboxes of a server: made within its limits, found by those whose they are, listed.
#pragma once

#include <boost/asio/io_context.hpp>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "control/config.h"
#include "control/sandbox.h"
#include "control/sandbox_config.h"
#include "control/snapshots.h"
#include "control/store.h"

namespace hutch::control {

class Sandboxes {
 public:
  Sandboxes(boost::asio::io_context& context, const Config& config, Store& store,
            Snapshots& snapshots, GuestFactory factory);

  // Starts one, or lets it wait for its turn: of those that boot at the same time each takes as
  // long as all of them, so no more do than Config::max_starting. Throws a Problem.
  std::shared_ptr<Sandbox> create(const std::string& organisation, const SandboxConfig& wanted);
  // Starts `count` that go on where `wanted.fork_of`, a sandbox of the organisation that runs, is
  // now, or where `wanted.snapshot` is: it is saved once, and all are of that moment. Throws a
  // Problem, and then none is made.
  std::vector<std::shared_ptr<Sandbox>> fork(const std::string& organisation,
                                             const SandboxConfig& wanted, size_t count);
  // Saves one that runs to a snapshot, which may have a name; it goes on. `done` is called later.
  // Throws a Problem.
  using Taken = std::function<void(const Snapshot& snapshot, const Problem* problem)>;
  void take_snapshot(const std::string& organisation, const std::string& id,
                     const std::string& name, Taken done);
  // One that has not ended. Throws a Problem: it is not there or another's, or it has ended.
  std::shared_ptr<Sandbox> find(const std::string& organisation, const std::string& id) const;
  // Null when it has ended; throws a Problem when it is not there or another's.
  std::shared_ptr<Sandbox> find_any(const std::string& organisation, const std::string& id) const;
  // Those of an organisation that have all these labels, ended ones included, the newest first.
  std::vector<StoredSandbox> list(const std::string& organisation, const Labels& labels) const;
  // Moves the deadline to `stop_at_ms` of the wall clock, or as far as may be; the new deadline.
  int64_t extend(Sandbox& sandbox, int64_t stop_at_ms);

  // Ends all; `done` is called when they are gone.
  void end_all(std::string_view reason, std::function<void()> done);
  size_t count() const { return running_.size(); }
  boost::asio::io_context& context() const { return context_; }

 private:
  using Forks = std::vector<std::shared_ptr<Sandbox>>;
  void begin(const Forks& forks, const std::shared_ptr<const Template>& saved,
             const Problem* problem);
  void check_limits(const std::string& organisation, uint64_t memory, size_t count) const;
  void add(Sandbox& sandbox, const SandboxConfig& wanted);
  void start(Sandbox& sandbox);
  void start_waiting();
  void ended(const std::string& id);

  boost::asio::io_context& context_;
  const Config& config_;
  Store& store_;
  Snapshots& snapshots_;
  GuestFactory factory_;
  std::map<std::string, std::shared_ptr<Sandbox>> running_;
  size_t starting_ = 0, max_starting_;
  std::deque<std::shared_ptr<Sandbox>> waiting_;
  std::function<void()> all_ended_;
};

}  // namespace hutch::control
