// AgentLink: the service's connection to the agent that started it, over which it starts processes
// (protocol/agent.h). The loop's thread only. The agent is trusted; when it goes, the service ends.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/loop.h"
#include "protocol/agent.h"

namespace hutch::agent::rpc {

// What happens to a process; any of them may be called once its channel is open, in this order.
// After `failed`, or after `over`, none is called any more.
struct ProcessEvents {
  std::function<void(uint32_t process_id)> started;
  std::function<void(const protocol::agent::Failed&)> failed;
  std::function<void(int stream, std::string bytes)> output;
  std::function<void(int stream)> output_end;
  std::function<void()> input_room;  // more input may be sent
  std::function<void(const protocol::agent::Exited&)> exited;
  std::function<void()> over;
};

class AgentLink {
 public:
  // `on_end` runs when the agent has gone; nothing else is called then.
  AgentLink(Loop& loop, Fd socket, std::function<void(std::string reason)> on_end);
  Result<void> start();
  // `on_renew` runs when the machine has become another one: with the variables, "NAME=value", that
  // its processes get from now on.
  void set_on_renew(std::function<void(const std::vector<std::string>& environment)> on_renew) {
    on_renew_ = std::move(on_renew);
  }

  // Returns the channel. Throws Failure when the request does not fit into a frame.
  uint32_t spawn(const protocol::agent::Spawn& request, ProcessEvents events);
  // How many bytes of input may be sent now.
  size_t input_room(uint32_t channel) const;
  void send_input(uint32_t channel, std::string_view bytes);
  void end_input(uint32_t channel);
  void signal(uint32_t channel, uint32_t number);
  // Output has been passed on: as much more may come.
  void give_credit(uint32_t channel, int stream, size_t bytes);

 private:
  struct Channel {
    ProcessEvents events;
    size_t input_credit = 0;
    uint32_t owed[2] = {0, 0};  // credit to give back
    bool exited = false;
    bool ended[2] = {false, false};
  };

  void on_event(uint32_t events);
  Result<void> receive();
  Result<void> handle(const protocol::agent::Frame& frame);
  void send(protocol::agent::FrameType type, uint32_t channel,
            std::span<const std::byte> payload = {});
  void flush();
  void end(std::string reason);
  void forget_when_over(uint32_t number);

  Loop& loop_;
  Fd socket_;
  Watch watch_;
  std::function<void(std::string)> on_end_;
  std::function<void(const std::vector<std::string>&)> on_renew_;
  protocol::agent::FrameReader reader_;
  std::deque<std::vector<std::byte>> outgoing_;
  size_t first_offset_ = 0;  // bytes of outgoing_.front() already sent
  std::unordered_map<uint32_t, std::shared_ptr<Channel>> channels_;
  uint32_t next_channel_ = 1;
};

}  // namespace hutch::agent::rpc
