// One sandbox: its guest, its connections, and when it ends.
//
// It may wait for its turn to start, serves once the guest's RPC service answers, and ends by
// end(), by its deadline, with its creator's connection when it has no deadline, or when the
// machine dies.
#pragma once

#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "control/boot_timer.h"
#include "control/channel.h"
#include "control/problem.h"

namespace hutch::control {

// A client's connection.
class Session {
 public:
  // Ends it with a WebSocket close code. May be called from anywhere; nothing is called back at
  // once.
  virtual void end(uint16_t code, std::string_view reason) = 0;

 protected:
  ~Session() = default;
};

class Sandbox final : public GuestEvents, public std::enable_shared_from_this<Sandbox> {
 public:
  static constexpr std::chrono::seconds kAnswerTime{5};
  enum class State { kStarting, kRunning, kEnding, kEnded };
  using Ready = std::function<void(const Problem* problem)>;

  // `ended` is called once, at the end, and not before start() or fail() or end() was.
  Sandbox(boost::asio::io_context& context, GuestOptions options, std::function<void()> ended);

  const std::string& id() const { return options_.sandbox_id; }
  const std::string& organisation() const { return options_.organisation; }
  uint64_t memory() const { return options_.memory; }  // bytes
  uint32_t cpus() const { return options_.cpus; }
  State state() const { return state_; }
  // How it came to be; nothing: it does not serve yet.
  std::optional<Way> way() const { return way_; }

  // Starts the guest; throws a Problem, and then nothing has changed. `settled` is called when the
  // guest serves or is gone. Once, and not when it has been ended.
  void start(const GuestFactory& factory, std::function<void()> settled);
  // What it will go on with, before it is started.
  void set_origin(std::shared_ptr<const Template> from) { options_.from = std::move(from); }
  // Saves its machine: Guest::save().
  void save(Guest::Saved done);
  // Stops its machine where it is, or lets it go on; its deadline goes on as well. What it is
  // already, it stays. `done` as in when_ready(), also from inside this call. Throws a Problem: it
  // does not serve, or is being saved, paused or resumed.
  void set_paused(bool paused, Ready done);
  bool is_paused() const { return is_paused_; }
  // Ends it, which was not started, for this reason.
  void fail(const Problem& problem);
  // Calls `ready` when it serves, or with the Problem that keeps it from that; from inside this
  // call when that is known already.
  void when_ready(Ready ready);

  // A connection, once it serves. `creator`: without a deadline, its end is the sandbox's.
  void add_session(Session& session, bool creator);
  void remove_session(Session& session);
  std::unique_ptr<Channel> open_channel(ChannelEvents& events, uint64_t stream_base);

  // Which hosts it may reach; none: it has no network.
  const std::optional<policy::Policy>& policy() const { return options_.egress; }
  // From now on; connections that are not allowed any more are cut. Throws a Problem.
  void set_policy(policy::Policy policy);

  // Ends it at boot_ms() `at_ms`, however many connections it has, and not before.
  void set_deadline(int64_t at_ms);
  // Closes all connections and ends the guest. `done` is called when it is gone, or after
  // kAnswerTime while it still goes: clients wait for 10 s, and nothing reaches it any more.
  // `reason` is for clients: at most 120 bytes.
  void end(std::string_view reason, std::function<void()> done = {});

  void on_ready(Way way) override;
  void on_ended(const std::string& reason) override;

 private:
  void close_sessions(std::string_view reason);
  void answer();

  boost::asio::io_context& context_;
  GuestOptions options_;
  State state_ = State::kStarting;
  std::unique_ptr<Guest> guest_;  // null: not started yet, or gone
  std::set<Session*> sessions_;
  Session* creator_ = nullptr;
  bool is_paused_ = false;
  int busy_ = 0;  // calls of save() and set_paused() that are not answered
  std::optional<Way> way_;
  std::optional<int64_t> deadline_ms_;
  BootTimer timer_;
  std::vector<Ready> waiting_;
  std::function<void()> ended_, settled_;
  std::vector<std::function<void()>> answers_;  // to those who asked for its end
  boost::asio::steady_timer answer_timer_;
  std::optional<Problem> problem_;
};

}  // namespace hutch::control
