#include "control/sandboxes.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <thread>

#include "base/log.h"
#include "control/clock.h"
#include "control/ids.h"

namespace hutch::control {
namespace {

void check_deadline(const SandboxConfig& wanted) {
  if (wanted.stop_at_ms && *wanted.stop_at_ms <= wall_ms())
    throw Problem(400, "INVALID_SANDBOX_CONFIG",
                  "stop_at_ms is in the past; compare the clocks of client and server");
}

// Of a machine that is gone on with.
struct Origin {
  const char* name;
  uint64_t memory;
  uint32_t cpus;
  std::optional<policy::Policy> egress;
};

Origin running_origin(const Sandbox& sandbox) {
  if (sandbox.state() != Sandbox::State::kRunning)
    throw Problem(409, "SANDBOX_NOT_RUNNING", "a sandbox is saved and forked once it serves");
  if (sandbox.is_paused())
    throw Problem(409, "SANDBOX_PAUSED",
                  "a sandbox that is paused is not saved and not forked; resume it first");
  return {"sandbox", sandbox.memory(), sandbox.cpus(), sandbox.policy()};
}

// A machine is of the shape of what it goes on with. Throws a Problem.
GuestOptions shape_of(const Origin& origin, const SandboxConfig& wanted) {
  GuestOptions options;
  options.memory = origin.memory;
  options.cpus = origin.cpus;
  options.egress = wanted.has_egress ? wanted.egress : origin.egress;
  if (wanted.has_memory && static_cast<uint64_t>(wanted.memory_mb) << 20 != options.memory)
    throw Problem(400, "INVALID_SANDBOX_CONFIG",
                  fmt::format("memory_mb: it has the {} MiB of the {} that it is of",
                              options.memory >> 20, origin.name));
  if (options.egress.has_value() != origin.egress.has_value())
    throw Problem(
        400, "INVALID_SANDBOX_CONFIG",
        fmt::format("allow_net: it has a network if the {} that it is of has one", origin.name));
  return options;
}

}  // namespace

Sandboxes::Sandboxes(boost::asio::io_context& context, const Config& config, Store& store,
                     Snapshots& snapshots, GuestFactory factory)
    : context_(context),
      config_(config),
      store_(store),
      snapshots_(snapshots),
      factory_(std::move(factory)),
      max_starting_(config.max_starting != 0
                        ? static_cast<size_t>(config.max_starting)
                        : std::max<size_t>(2, std::thread::hardware_concurrency())) {
  store_.stop_all_sandboxes(wall_ms());
}

std::shared_ptr<Sandbox> Sandboxes::create(const std::string& organisation,
                                           const SandboxConfig& wanted) {
  if (!wanted.fork_of.empty() || !wanted.snapshot.empty())
    return fork(organisation, wanted, 1).front();
  GuestOptions options;
  options.sandbox_id = new_sandbox_id(config_.region);
  options.organisation = organisation;
  options.memory = static_cast<uint64_t>(wanted.memory_mb) << 20;
  options.cpus = static_cast<uint32_t>(config_.cpus);
  options.egress = wanted.egress;
  check_limits(organisation, options.memory, 1);
  check_deadline(wanted);
  auto sandbox =
      std::make_shared<Sandbox>(context_, options, [this, id = options.sandbox_id] { ended(id); });
  // The machine starts while the rest is done.
  if (starting_ < max_starting_) {
    start(*sandbox);
  } else {
    waiting_.push_back(sandbox);
  }
  running_[sandbox->id()] = sandbox;
  add(*sandbox, wanted);
  return sandbox;
}

std::vector<std::shared_ptr<Sandbox>> Sandboxes::fork(const std::string& organisation,
                                                      const SandboxConfig& wanted, size_t count) {
  std::shared_ptr<Sandbox> parent;
  std::optional<Snapshot> snapshot;
  GuestOptions options;
  if (wanted.snapshot.empty()) {
    parent = find(organisation, wanted.fork_of);
    options = shape_of(running_origin(*parent), wanted);
  } else {
    snapshot = snapshots_.find(organisation, wanted.snapshot);
    options = shape_of({"snapshot", snapshot->memory, snapshot->cpus, snapshot->egress}, wanted);
  }
  options.organisation = organisation;
  options.is_restore = snapshot.has_value();
  check_limits(organisation, options.memory, count);
  check_deadline(wanted);
  Forks forks;
  for (size_t i = 0; i < count; i++) {
    options.sandbox_id = new_sandbox_id(config_.region);
    forks.push_back(std::make_shared<Sandbox>(context_, options,
                                              [this, id = options.sandbox_id] { ended(id); }));
    running_[options.sandbox_id] = forks.back();
  }
  try {
    for (const std::shared_ptr<Sandbox>& fork : forks) add(*fork, wanted);
  } catch (...) {
    for (const std::shared_ptr<Sandbox>& fork : forks) fork->end("not all of them can be stored");
    throw;
  }
  if (snapshot) {
    snapshots_.open(*snapshot, [this, forks](const auto& saved, const Problem* problem) {
      begin(forks, saved, problem);
    });
  } else {
    parent->save([this, forks](const std::shared_ptr<const Template>& saved) {
      Problem problem(500, "SANDBOX_START_FAILED",
                      "the sandbox cannot be forked; the server's log says why");
      begin(forks, saved, &problem);
    });
  }
  return forks;
}

// `problem`: where nothing was saved.
void Sandboxes::begin(const Forks& forks, const std::shared_ptr<const Template>& saved,
                      const Problem* problem) {
  for (const std::shared_ptr<Sandbox>& fork : forks) {
    if (fork->state() != Sandbox::State::kStarting) continue;
    if (saved) {
      fork->set_origin(saved);
      waiting_.push_back(fork);
    } else {
      fork->fail(*problem);
    }
  }
  start_waiting();
}

void Sandboxes::take_snapshot(const std::string& organisation, const std::string& id,
                              const std::string& name, Taken done) {
  std::shared_ptr<Sandbox> sandbox = find(organisation, id);
  Origin origin = running_origin(*sandbox);
  Snapshot snapshot{.id = new_snapshot_id(config_.region),
                    .name = name,
                    .organisation = organisation,
                    .sandbox_id = id,
                    .created_ms = wall_ms(),
                    .memory = origin.memory,
                    .cpus = origin.cpus,
                    .egress = origin.egress};
  snapshots_.claim(snapshot);
  sandbox->save([this, snapshot,
                 done = std::move(done)](const std::shared_ptr<const Template>& saved) mutable {
    if (!saved) {
      snapshots_.drop_claim(snapshot.id);
      Problem problem(500, "SNAPSHOT_FAILED",
                      "the sandbox cannot be saved; the server's log says why");
      return done(snapshot, &problem);
    }
    snapshots_.keep(snapshot, saved, [snapshot, done = std::move(done)](const Problem* problem) {
      done(snapshot, problem);
    });
  });
}

// What is in running_ already.
void Sandboxes::add(Sandbox& sandbox, const SandboxConfig& wanted) {
  try {
    store_.add_sandbox(
        {sandbox.id(), sandbox.organisation(), config_.region, wall_ms(), {}, wanted.labels});
    if (wanted.stop_at_ms) extend(sandbox, *wanted.stop_at_ms);
  } catch (...) {
    sandbox.end("the server cannot store it");
    throw;
  }
  log_info("{}: starts with {} MiB and {} CPUs", sandbox.id(), sandbox.memory() >> 20,
           sandbox.cpus());
}

void Sandboxes::start(Sandbox& sandbox) {
  sandbox.start(factory_, [this] {
    starting_--;
    start_waiting();
  });
  starting_++;
}

void Sandboxes::start_waiting() {
  while (starting_ < max_starting_ && !waiting_.empty()) {
    std::shared_ptr<Sandbox> sandbox = std::move(waiting_.front());
    waiting_.pop_front();
    if (sandbox->state() != Sandbox::State::kStarting) continue;
    try {
      start(*sandbox);
    } catch (const Problem& problem) {
      sandbox->fail(problem);
    }
  }
}

// The organisation's, and the host's.
void Sandboxes::check_limits(const std::string& organisation, uint64_t memory, size_t count) const {
  auto has = static_cast<size_t>(std::ranges::count_if(
      running_, [&](const auto& entry) { return entry.second->organisation() == organisation; }));
  if (has + count > static_cast<size_t>(config_.max_sandboxes))
    throw Problem(429, "SANDBOX_LIMIT_REACHED",
                  fmt::format("the organisation has {} sandboxes, and may have {} at a time", has,
                              config_.max_sandboxes));
  if (running_.size() + count > static_cast<size_t>(config_.max_total_sandboxes))
    throw Problem(503, "SERVER_LIMIT_REACHED", "the server has as many sandboxes as it can have");
  if (config_.max_total_memory_mb == 0) return;
  uint64_t total = memory * count;
  for (const auto& [id, sandbox] : running_) total += sandbox->memory();
  if (total > static_cast<uint64_t>(config_.max_total_memory_mb) << 20)
    throw Problem(503, "MEMORY_LIMIT_REACHED",
                  "the server has no memory left for a sandbox of this size");
}

std::shared_ptr<Sandbox> Sandboxes::find_any(const std::string& organisation,
                                             const std::string& id) const {
  auto found = running_.find(id);
  if (found != running_.end()) {
    if (found->second->organisation() != organisation) throw sandbox_not_found();
    bool over = found->second->state() == Sandbox::State::kEnding;
    return over ? nullptr : found->second;
  }
  std::optional<StoredSandbox> stored = store_.find_sandbox(id);
  if (!stored || stored->organisation != organisation) throw sandbox_not_found();
  return nullptr;
}

std::shared_ptr<Sandbox> Sandboxes::find(const std::string& organisation,
                                         const std::string& id) const {
  std::shared_ptr<Sandbox> sandbox = find_any(organisation, id);
  if (!sandbox) throw Problem(400, "SANDBOX_ALREADY_TERMINATED", "the sandbox has been terminated");
  return sandbox;
}

std::vector<StoredSandbox> Sandboxes::list(const std::string& organisation,
                                           const Labels& labels) const {
  std::vector<StoredSandbox> result = store_.sandboxes(organisation);
  std::erase_if(result, [&](const StoredSandbox& sandbox) {
    return !std::all_of(labels.begin(), labels.end(), [&](const auto& label) {
      auto found = sandbox.labels.find(label.first);
      return found != sandbox.labels.end() && found->second == label.second;
    });
  });
  return result;
}

int64_t Sandboxes::extend(Sandbox& sandbox, int64_t stop_at_ms) {
  int64_t now = wall_ms();
  // A deadline is a time from now on the clock that nobody sets.
  int64_t left =
      std::clamp<int64_t>(stop_at_ms - std::min(stop_at_ms, now), 0, config_.max_lifetime_s * 1000);
  sandbox.set_deadline(boot_ms() + left);
  return now + left;
}

void Sandboxes::ended(const std::string& id) {
  try {
    store_.stop_sandbox(id, wall_ms());
  } catch (const std::exception& error) {
    log_error("{}: {}", id, error.what());
  }
  running_.erase(id);
  if (running_.empty() && all_ended_) boost::asio::post(context_, std::exchange(all_ended_, {}));
}

void Sandboxes::end_all(std::string_view reason, std::function<void()> done) {
  all_ended_ = std::move(done);
  std::vector<std::shared_ptr<Sandbox>> all;
  for (const auto& [id, sandbox] : running_) all.push_back(sandbox);
  for (const std::shared_ptr<Sandbox>& sandbox : all) sandbox->end(reason);
  if (running_.empty() && all_ended_) boost::asio::post(context_, std::exchange(all_ended_, {}));
}

}  // namespace hutch::control
