// Session: one connection to the host and the operations on its channels.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "guest-agent/process.h"

namespace hutch::agent {

// What a session decides with.
struct SessionOptions {
  std::string token;         // what Hello must carry; empty: the transport vouches for the host
  bool owns_system = false;  // whether Hello sets the clock, the entropy and who the machine is
  bool ipv6 = false;         // whether the machine's network has it
  bool owns_files = false;   // whether Hello may change the machine's files: they are its own
  // Not empty: a service's connection. Whatever it asks is done as this user, and it cannot end the
  // guest.
  std::string user = {};
};

class Session : public Outbox {
 public:
  Session(Services& services, SessionOptions options, Fd socket);
  ~Session() override;

  // Watches the socket, which may still be connecting.
  Result<void> start();
  // Goes on over another socket, after the connection was lost: what ran on it is held until the
  // host's Hello says what becomes of it.
  Result<void> reconnect(Fd socket);
  // Sends what the round queued and drops what it finished; call it after each round of the loop.
  void end_round();

  bool is_over() const { return over_; }
  // Whether it is over because of the connection alone, and neither side broke the protocol.
  bool was_lost() const { return lost_; }
  // Why it is over; empty when the host has just gone.
  const std::string& reason() const { return reason_; }
  bool is_authenticated() const { return greeted_; }
  // Whether its host had processes stopped and has not let them run since.
  bool holds_freeze() const { return froze_; }
  // What the host asked for with Shutdown.
  std::optional<protocol::agent::ShutdownKind> shutdown() const { return shutdown_; }

  void send(protocol::agent::FrameType type, uint32_t channel,
            std::span<const std::byte> payload) override;
  bool has_room() const override;
  void wait_for_room(uint32_t channel) override;
  void flush() override;
  void finish(uint32_t channel) override;

 private:
  void on_event(uint32_t events);
  void receive();
  void update_watch();
  void end(std::string reason);
  void lose(std::string reason);
  Result<void> dispatch(protocol::agent::Frame frame);
  Result<void> greet(const protocol::agent::Frame& frame);
  Result<void> welcome(const protocol::agent::Hello& hello);
  Result<void> refuse_version(uint32_t version);
  Operation* keep_service(bool adopt);
  Result<void> dispatch_to_agent(const protocol::agent::Frame& frame);
  void freeze();
  Result<void> open_channel(const protocol::agent::Frame& frame);
  Result<void> dispatch_to(Operation& operation, protocol::agent::Frame frame);

  Services& services_;
  const SessionOptions options_;
  Fd socket_;
  Watch watch_;
  uint32_t watched_ = 0;
  protocol::agent::FrameReader reader_;
  std::deque<std::vector<std::byte>> outgoing_;
  size_t outgoing_bytes_ = 0;
  size_t first_offset_ = 0;  // bytes of outgoing_.front() already sent
  std::unordered_map<uint32_t, std::unique_ptr<Operation>> operations_;
  std::vector<uint32_t> finished_;
  std::vector<uint32_t> waiting_for_room_;
  bool greeted_ = false;
  bool over_ = false;
  bool lost_ = false;
  bool held_ = false;  // the operations are those of a connection that was lost
  bool froze_ = false;
  std::string reason_;
  std::optional<protocol::agent::ShutdownKind> shutdown_;
};

}  // namespace hutch::agent
