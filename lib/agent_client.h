// AgentClient: the host's side of the agent protocol, without any input or output of its own.
//
// Bytes from the agent go in by receive(), bytes for it wait in outgoing(), what happened is in
// events(). Every byte received is guest-controlled: a frame that the protocol does not allow at
// that moment (data beyond the credit, an unknown task, a second exit, ...) is an error, after
// which the agent must be dropped. What it can make the host hold is bounded by the credit.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "lib/event.h"
#include "protocol/agent.h"

namespace hutch::lib {

class AgentClient {
 public:
  // Whom OUTPUT events are given back to; the owner calls acknowledge() here.
  void set_output_owner(std::weak_ptr<OutputOwner> owner) { owner_ = std::move(owner); }
  // Begins the conversation. What was asked for before waits for this. With `adopt`, the machine's
  // service is the task kAdoptedService from now on, a process that has started. An agent that does
  // not keep it, or does not do what else the hello asks of a restored machine, is in error: a fork
  // whose renewal fails must not run.
  void say_hello(protocol::agent::Hello hello);
  static constexpr hutch_task kAdoptedService = protocol::agent::kAdoptedChannel;
  bool is_ready() const { return ready_; }

  // Takes what came from the agent. An error means that it broke the protocol.
  Result<void> receive(std::span<const std::byte> bytes);
  // What is to be sent; empty before say_hello().
  std::span<const std::byte> outgoing() const;
  // The first `size` bytes of outgoing() have been sent.
  void sent(size_t size);
  EventQueue& events() { return events_; }

  Result<hutch_task> spawn(const protocol::agent::Spawn& message);
  Result<hutch_task> read_file(const protocol::agent::ReadFile& message);
  Result<hutch_task> write_file(const protocol::agent::WriteFile& message);
  Result<void> signal(hutch_task task, uint32_t number);
  Result<void> resize(hutch_task task, uint16_t rows, uint16_t columns);
  // Returns how many bytes the credit took; a WRITABLE event follows when that is not all.
  Result<size_t> write(hutch_task task, std::span<const std::byte> bytes);
  Result<void> close_input(hutch_task task);
  void close(hutch_task task);
  void shutdown(bool reboot);
  // Stops all processes of the machine, or lets them run again; FROZEN or THAWED follows. One of
  // each kind at a time.
  Result<void> freeze();
  Result<void> thaw();

  // Gives `size` bytes of credit back for output that was passed on.
  void acknowledge(hutch_task task, int stream, size_t size);

 private:
  enum class Kind { kProcess, kReadFile, kWriteFile };
  struct Stream {
    uint32_t window = 0;    // bytes that the agent may still send
    uint32_t returned = 0;  // acknowledged, but not yet told to the agent
    bool ended = true;
  };
  struct Channel {
    Kind kind{};
    bool started = false;
    bool exited = false;
    bool closed = false;  // by us: what still arrives is checked and dropped
    bool input_open = false;
    bool wants_room = false;    // a write took less than asked
    uint32_t input_credit = 0;  // bytes of input that the agent has room for
    Stream streams[2];
  };

  Result<hutch_task> open(Kind kind, protocol::agent::FrameType type,
                          std::span<const std::byte> payload, Channel channel);
  Result<Channel*> find(hutch_task task);
  void send(protocol::agent::FrameType type, uint32_t channel,
            std::span<const std::byte> payload = {});
  Event& add_event(hutch_event_kind kind, hutch_task task);

  Result<void> handle(protocol::agent::Frame frame);
  Result<void> handle_agent(const protocol::agent::Frame& frame);
  Result<void> handle_hello_reply(const protocol::agent::Frame& frame);
  Result<void> handle_started(const protocol::agent::Frame& frame, Channel& channel);
  Result<void> handle_failed(const protocol::agent::Frame& frame, const Channel& channel);
  Result<void> handle_output(protocol::agent::Frame& frame, Channel& channel);
  Result<void> handle_output_end(const protocol::agent::Frame& frame, Channel& channel);
  Result<void> handle_exited(const protocol::agent::Frame& frame, Channel& channel);
  Result<void> handle_input_credit(const protocol::agent::Frame& frame, Channel& channel);
  Result<void> handle_done(const protocol::agent::Frame& frame, const Channel& channel);
  void forget_when_over(uint32_t number);
  void close_channel(uint32_t number, Channel& channel);
  void forget_closed_before(uint32_t number);

  protocol::agent::FrameReader reader_;
  std::unordered_map<uint32_t, Channel> channels_;
  // The first is only ever the adopted service's: tasks may be opened before it is known whether
  // there is one.
  uint32_t next_channel_ = protocol::agent::kAdoptedChannel + 1;
  // Closed channels, oldest first. The agent has seen a Close, and sends nothing more of that
  // channel, once it has said anything about a channel that was opened later.
  struct Closed {
    uint32_t channel;
    uint32_t next;  // next_channel_ at that time
  };
  std::deque<Closed> closed_;
  bool greeted_ = false;
  bool ready_ = false;
  bool expects_service_ = false;  // what the hello asked for
  bool expects_reseeding_ = false;
  bool freezing_ = false, thawing_ = false;  // asked for and not answered
  std::vector<std::byte> outgoing_;
  size_t outgoing_start_ = 0;
  std::vector<std::byte> held_;  // until say_hello()
  EventQueue events_;
  std::weak_ptr<OutputOwner> owner_;
};

}  // namespace hutch::lib
