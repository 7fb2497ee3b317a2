// Pumps: what moves bytes between a child's pipes (or terminal) and a channel, within its credit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <vector>

#include "guest-agent/channel.h"

namespace hutch::agent {

// From a child to the host: reads only what the host has granted and the connection has room for,
// so a host that stops reading stops the child, and nothing piles up in the agent.
class OutputPump {
 public:
  // `stream` is 1 or 2. `on_progress` is called when the pump has drained or ended; it may drop the
  // pump's operation through Outbox::finish() only.
  // `tells_end`: whether OutputEnd is sent at the end of file.
  OutputPump(Loop& loop, Outbox& outbox, uint32_t channel, uint8_t stream, bool tells_end,
             std::function<void()> on_progress);

  // Takes the reading end of a pipe, or the master of a terminal.
  Result<void> start(Fd source, bool terminal);
  void add_credit(uint32_t bytes);
  // Reads again after the connection had no room.
  void resume();
  // Goes on as `channel`, with the credit of a beginning. Needs resume().
  void restart(uint32_t channel);
  // The process is gone: what its pipe or terminal holds now is all that was its own.
  void mark_exit();

  bool is_open() const { return source_.is_open(); }
  // Whether the process is gone and all that it left behind has been sent, or the end was reached.
  bool is_drained() const { return !is_open() || (exited_ && held_at_exit_ == 0); }
  uint64_t sent() const { return sent_; }

 private:
  void read_some();
  void read_once();
  void lower_held(uint64_t bytes);
  bool drains_terminal() const;
  void update_watch();
  void end();

  Loop& loop_;
  Outbox& outbox_;
  uint32_t channel_;
  const uint8_t stream_;
  const bool tells_end_;
  std::function<void()> on_progress_;
  bool terminal_ = false;
  Fd source_;
  Watch watch_;
  uint64_t credit_ = protocol::agent::kInitialCredit;
  uint64_t sent_ = 0;
  bool exited_ = false;
  uint64_t held_at_exit_ = 0;  // bytes, at most, that the process left behind and are not sent
};

// From the host to a child: holds at most the credit that it has granted.
class InputPump {
 public:
  InputPump(Loop& loop, Outbox& outbox, uint32_t channel);

  // Takes the writing end of a pipe, or the master of a terminal. For a terminal the end of input
  // is typed, not closed.
  Result<void> start(Fd sink, bool terminal);
  // Errors: more than the credit, or bytes behind the end.
  Result<void> take(std::vector<std::byte> bytes);
  Result<void> end();
  bool has_ended() const { return ended_; }
  // Goes on as `channel`, with the credit of a beginning; what it holds is dropped.
  void restart(uint32_t channel);

 private:
  Result<void> write_out();
  Result<void> wait_until_writable();
  void type_end_of_file();
  void give_credit(size_t bytes);

  Loop& loop_;
  Outbox& outbox_;
  uint32_t channel_;
  bool terminal_ = false;
  Fd sink_;
  Watch watch_;
  std::deque<std::vector<std::byte>> held_;
  size_t first_offset_ = 0;  // bytes of held_.front() already written
  uint64_t credit_ = protocol::agent::kInitialCredit;
  uint32_t to_give_ = 0;
  bool ended_ = false;
  bool broken_ = false;  // nobody reads any more: what comes is dropped
  std::byte last_{'\n'};
};

}  // namespace hutch::agent
