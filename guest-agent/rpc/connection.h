// Connection: one client. Reads its calls and streams from a pipe, writes answers to another.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "guest-agent/rpc/framing.h"
#include "guest-agent/rpc/streams.h"

namespace hutch::agent::rpc {

class Connection;

// A call that waits for its answer, which goes out at most once. The loop's thread only.
class Call {
 public:
  Call(std::weak_ptr<Connection> connection, Json id)
      : connection_(std::move(connection)), id_(std::move(id)) {}

  Json params;

  // Null when the client has gone: the answer goes nowhere then.
  std::shared_ptr<Connection> connection() const { return connection_.lock(); }
  void ok(const Json& value = nullptr);
  // `json` is a document in valid UTF-8.
  void ok_text(std::string_view json);
  void fail(const Failure& failure);
  // Whether it was neither answered nor aborted, and the client is there.
  bool is_open() const { return !answered_ && !connection_.expired(); }
  // Runs when the client aborts the call or has gone before the answer.
  void set_on_abort(std::function<void()> on_abort) { on_abort_ = std::move(on_abort); }
  void abort();
  const Json& id() const { return id_; }

 private:
  std::weak_ptr<Connection> connection_;
  const Json id_;
  bool answered_ = false;
  std::function<void()> on_abort_;
};

class Connection : public StreamOwner, public std::enable_shared_from_this<Connection> {
 public:
  // Answers a call, now or later; may throw Failure.
  using Handler = std::function<void(const std::string& method, const std::shared_ptr<Call>& call)>;

  // `stream_base`: the first of the 2^20 numbers for the streams that this side opens.
  Connection(Loop& loop, Fd in, Fd out, uint64_t stream_base, Handler handler);
  ~Connection() override;

  // `on_end` runs once, when the client has gone or broke the framing; it may drop the connection.
  Result<void> start(std::function<void()> on_end);

  std::shared_ptr<OutboundStream> open_stream();
  // The stream `id` of the client, for the one call that names it. Throws Failure when there is
  // none.
  std::shared_ptr<InboundStream> claim_stream(uint64_t id);
  void notify(const char* method, const Json& params);
  // Aborts the calls with this abortId, and the streams that answers to such calls have named.
  void abort(const Json& abort_id);
  void abort_with(const Json& abort_id, const std::shared_ptr<OutboundStream>& stream);

  // For Call.
  void send(std::string message);
  void forget_call(const Call& call);

  void notify(const char* method, uint64_t stream, const Json& members) override;
  void send_chunk(uint64_t stream, std::string_view bytes) override;
  bool has_room() const override;
  void wait_for_room(std::weak_ptr<OutboundStream> stream) override;
  void forget_outbound(uint64_t stream) override { outbound_.erase(stream); }
  void forget_inbound(uint64_t stream) override;
  void inbound_taken() override;

 private:
  void read_some();
  void write_some(uint32_t events);
  void watch_output(uint32_t events);
  void resume_streams();
  void update_reading();
  void end();
  void take(std::string message);
  // `too_deep`: the parameters are not all there.
  void take_call(Json message, bool too_deep);
  // Nobody will read what the failed call named.
  void drop_unclaimed(const std::vector<uint64_t>& streams, const Failure& reason);
  void take_notification(const std::string& method, Json& params);
  void limit_unclaimed();

  Loop& loop_;
  Fd in_, out_;
  const uint64_t stream_base_;
  Handler handler_;
  std::function<void()> on_end_;
  Watch in_watch_, out_watch_;
  bool over_ = false;
  bool reading_paused_ = false;
  bool update_posted_ = false;
  MessageReader reader_;
  std::string unread_;  // came while reading is paused
  MessageQueue queue_;
  std::vector<std::weak_ptr<OutboundStream>> waiting_for_room_;
  std::map<const Call*, std::shared_ptr<Call>> calls_;
  std::unordered_map<uint64_t, std::shared_ptr<OutboundStream>> outbound_;
  std::unordered_map<uint64_t, std::shared_ptr<InboundStream>> inbound_;
  std::vector<std::pair<Json, std::weak_ptr<OutboundStream>>> abortable_;
  uint64_t next_stream_ = 0;
};

}  // namespace hutch::agent::rpc
