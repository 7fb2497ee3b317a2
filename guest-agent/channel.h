// What a channel's operation may do with the connection that it came by.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/loop.h"
#include "base/result.h"
#include "protocol/agent.h"

namespace hutch::agent {

// The sending side of a connection, seen by one of its channels.
class Outbox {
 public:
  virtual ~Outbox() = default;
  // Queues a frame; the connection sends it at the end of the loop's round.
  virtual void send(protocol::agent::FrameType type, uint32_t channel,
                    std::span<const std::byte> payload) = 0;
  // Whether the host keeps up. When not, call wait_for_room() and stop reading: the channel's
  // Operation::resume() is called once there is room.
  virtual bool has_room() const = 0;
  virtual void wait_for_room(uint32_t channel) = 0;
  // Sends at once what is queued, as far as the peer takes it.
  virtual void flush() = 0;
  // The operation is over. It is dropped later, so its caller may still be one of its methods.
  virtual void finish(uint32_t channel) = 0;
};

// One channel: a process or a file transfer. An error from any of these is the host's breach of the
// protocol and ends the connection.
class Operation {
 public:
  virtual ~Operation() = default;
  virtual Result<void> input(std::vector<std::byte> bytes) = 0;
  virtual Result<void> input_end() = 0;
  virtual Result<void> signal(int number) = 0;
  virtual Result<void> resize(uint16_t rows, uint16_t columns) = 0;
  virtual Result<void> credit(uint8_t stream, uint32_t bytes) = 0;
  virtual void resume() = 0;
  // Whether this is the machine's service, which can outlive its connection, and it is well.
  virtual bool is_service() const { return false; }
  // A service goes on as `channel` of the next connection, with the credit of a beginning: all that
  // was under way is forgotten. It gives `environment` to processes that it starts. Call resume()
  // when the host may hear of it.
  virtual void adopt(uint32_t channel, const std::vector<std::string>& environment) {
    (void)channel;
    (void)environment;
  }
};

}  // namespace hutch::agent
