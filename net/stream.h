// Stream: the pump between a flow and a stream socket. Never waits; the loop tells it when to go
// on.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "base/fd.h"
#include "base/loop.h"
#include "base/result.h"
#include "net/counters.h"
#include "net/far_end.h"

namespace hutch::net {

class Stream final : public FarEnd {
 public:
  // `fd` is a stream socket; whether it blocks does not matter. `changed` is called by the loop
  // when pump() may have something to do, and may drop the stream. Loop and counters must outlive
  // it.
  static Result<std::unique_ptr<Stream>> create(Loop& loop, Fd fd, Counters& counters,
                                                std::function<void()> changed);

  size_t take(std::span<const std::byte> bytes) override;
  void pump(TcpFlow& flow, uint64_t now_ns) override;
  bool is_over() const override { return is_input_over_ && is_output_over_; }
  void cut() override;

 private:
  Stream(Loop& loop, Fd fd, Counters& counters, std::function<void()> changed);
  void on_events(uint32_t events);
  void read_into(TcpFlow& flow, uint64_t now_ns);
  void write_from(TcpFlow& flow, uint64_t now_ns);
  // How many bytes the socket took.
  size_t write(Pieces pieces);
  void wait_for_room(bool wanted);

  Loop& loop_;
  Fd fd_;
  Counters& counters_;
  std::function<void()> changed_;
  Watch watch_;
  bool is_readable_ = false;  // there may be bytes, or the end
  bool is_hung_up_ = false;   // the end has come: behind the bytes that are there
  bool is_full_ = false;      // takes no bytes now; the watch has EPOLLOUT
  bool has_failed_ = false;   // takes no bytes ever again
  bool is_input_over_ = false;
  bool is_output_over_ = false;
};

}  // namespace hutch::net
