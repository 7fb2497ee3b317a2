// Streams of a connection: bytes in both directions beside the calls.
//
// All of it belongs to the loop's thread. What a stream holds is bounded by its user: on_passed
// tells what has left an OutboundStream, and an InboundStream holds back the connection's pipe.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/loop.h"
#include "guest-agent/rpc/failure.h"

namespace hutch::agent::rpc {

// The most that an inbound stream with a user holds before the connection is read no further.
constexpr size_t kInboundLimit = 1 << 20;
// The most that all streams without a user hold: the call that uses one may come behind its data,
// so it must be read. Beyond it such a stream is cancelled.
constexpr size_t kUnclaimedLimit = size_t{16} << 20;
// The most that an outbound stream's user should have on its way.
constexpr size_t kOutboundLimit = 256 * 1024;

class OutboundStream;

// What streams need of their connection.
class StreamOwner {
 public:
  virtual ~StreamOwner() = default;
  virtual void notify(const char* method, uint64_t stream, const Json& members) = 0;
  virtual void send_chunk(uint64_t stream, std::string_view bytes) = 0;
  virtual bool has_room() const = 0;
  virtual void wait_for_room(std::weak_ptr<OutboundStream> stream) = 0;
  virtual void forget_outbound(uint64_t stream) = 0;
  virtual void forget_inbound(uint64_t stream) = 0;
  virtual void inbound_taken() = 0;
};

class OutboundStream : public std::enable_shared_from_this<OutboundStream> {
 public:
  OutboundStream(Loop& loop, StreamOwner& owner, uint64_t id)
      : loop_(loop), owner_(&owner), id_(id) {}

  uint64_t id() const { return id_; }
  // `on_passed` gets the count of bytes that were passed on, or dropped because nobody wants them.
  void set_on_passed(std::function<void(size_t)> on_passed) { on_passed_ = std::move(on_passed); }
  // Runs once, when the client or its connection has gone from the stream, or at abort().
  void set_on_cancel(std::function<void()> on_cancel) { on_cancel_ = std::move(on_cancel); }
  // Nothing is sent before this: the client must have its answer, and have looked at it, first.
  void release();
  void release_after(std::chrono::nanoseconds delay);

  void push(std::string bytes);
  // Both end it; what was pushed is sent first. Once.
  void end();
  void fail(const Failure& failure);
  // Ends it with a failure at once, without what waits to be sent.
  void abort(const Failure& failure);
  bool is_wanted() const { return owner_ != nullptr; }

  // For the owner: the client does not want the stream any more, or has gone.
  void cancel();
  void flush();

 private:
  void drop_chunks();

  Loop& loop_;
  StreamOwner* owner_;  // null: cancelled, or all is sent
  const uint64_t id_;
  std::function<void(size_t)> on_passed_;
  std::function<void()> on_cancel_;
  Watch timer_;
  std::deque<std::string> chunks_;
  bool released_ = false, started_ = false, ended_ = false;
  std::optional<Failure> failure_;
};

class InboundStream {
 public:
  InboundStream(StreamOwner& owner, uint64_t id) : owner_(&owner), id_(id) {}

  // The next chunk, or the first `most` bytes of it; nothing when there is none now.
  std::optional<std::string> take(size_t most = SIZE_MAX);
  // Whether no more will come, and why if that is a failure of the client.
  bool is_ended() const { return ended_ && chunks_.empty(); }
  const std::optional<Failure>& failure() const { return failure_; }
  // Whether all of it has come, though it may not have been taken.
  bool has_come() const { return ended_; }
  // Tells when there is something new.
  void set_on_data(std::function<void()> on_data) { on_data_ = std::move(on_data); }
  // Tells the client that nobody reads any more, and drops what comes.
  void cancel(const Failure& reason);

  // For the owner.
  void add(std::string bytes);
  void end(std::optional<Failure> failure);
  void detach();
  size_t held() const { return held_; }
  bool is_claimed() const { return claimed_; }
  void claim() { claimed_ = true; }

 private:
  StreamOwner* owner_;  // null: the connection has ended
  const uint64_t id_;
  std::function<void()> on_data_;
  std::deque<std::string> chunks_;
  size_t first_offset_ = 0;  // bytes of chunks_.front() already taken
  size_t held_ = 0;
  bool ended_ = false, claimed_ = false, cancelled_ = false;
  std::optional<Failure> failure_;
};

}  // namespace hutch::agent::rpc
