#include "guest-agent/rpc/connection.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/log.h"
#include "base/sys.h"
#include "guest-agent/rpc/codecs.h"

namespace hutch::agent::rpc {
namespace {

// Streams are passed on while less than this waits to be written.
constexpr size_t kRoom = 1 << 20;
// With this much waiting, a client that calls without reading answers is not listened to.
constexpr size_t kTooMuch = size_t{8} << 20;
constexpr size_t kMaxCalls = 4096;
constexpr size_t kMaxInbound = 4096;
constexpr uint64_t kStreamNumbers = 1 << 20;
constexpr size_t kMaxNesting = 500;
// Bytes of an id that is a text.
constexpr size_t kMaxId = 128;
constexpr size_t kReadSize = 256 * 1024;

std::string dump(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// The control plane knows a long answer by these first bytes.
std::string answer_head(const Json& id) {
  return R"({"jsonrpc":"2.0","id":)" + dump(id) + R"(,"result":)";
}

// A document that nests too deeply, with what lies deep left out: enough to answer it.
Json parse_shallow(const std::string& text) {
  return Json::parse(
      text, [](int depth, Json::parse_event_t, const Json&) { return depth <= 1; }, false);
}

// Only these can be sent back, and only by these can a client know its call again.
bool is_id(const Json& id) {
  return id.is_number() || (id.is_string() && id.get_ref<const std::string&>().size() <= kMaxId);
}

std::optional<uint64_t> stream_id(const Json& params) {
  if (!params.is_object()) return std::nullopt;
  auto found = params.find("streamId");
  if (found == params.end() || !found->is_number_unsigned()) return std::nullopt;
  return found->get<uint64_t>();
}

// The streams of the client that a call means to read.
std::vector<uint64_t> named_streams(const Json& params) {
  std::vector<uint64_t> ids;
  for (const char* key : {"stdinStreamId", "contentStreamId", "bodyStreamId"}) {
    auto found = params.find(key);
    if (found != params.end() && found->is_number_unsigned()) ids.push_back(found->get<uint64_t>());
  }
  return ids;
}

// The client's error object, for messages only.
std::optional<Failure> client_failure(const Json& params) {
  Failure failure("Error", "the client gave the stream up");
  auto error = params.find("error");
  if (error != params.end() && error->is_object()) {
    auto message = error->find("message");
    if (message != error->end() && message->is_string()) failure.message = *message;
    auto name = error->find("constructorName");
    if (name != error->end() && name->is_string()) failure.constructor_name = *name;
  }
  return failure;
}

}  // namespace

void Call::ok(const Json& value) {
  ok_text(dump(value));
}

void Call::ok_text(std::string_view json) {
  auto connection = connection_.lock();
  if (answered_ || !connection) return;
  std::string message = answer_head(id_) + R"({"ok":)";
  message.reserve(message.size() + json.size() + 2);
  message.append(json).append("}}");
  if (message.size() > kMaxMessageOut)
    return fail({"Error", "the answer has " + std::to_string(message.size()) +
                              " bytes, more than one message may; read the file in parts"});
  answered_ = true;
  connection->send(std::move(message));
  connection->forget_call(*this);
}

void Call::fail(const Failure& failure) {
  auto connection = connection_.lock();
  if (answered_ || !connection) return;
  answered_ = true;
  connection->send(answer_head(id_) + R"({"error":)" + dump(failure.to_json()) + "}}");
  connection->forget_call(*this);
}

void Call::abort() {
  std::function<void()> on_abort = std::exchange(on_abort_, nullptr);
  if (on_abort && !answered_) on_abort();
  fail(abort_failure());
}

Connection::Connection(Loop& loop, Fd in, Fd out, uint64_t stream_base, Handler handler)
    : loop_(loop),
      in_(std::move(in)),
      out_(std::move(out)),
      stream_base_(stream_base),
      handler_(std::move(handler)) {}

Connection::~Connection() = default;

Result<void> Connection::start(std::function<void()> on_end) {
  TRY(set_nonblocking(in_.get()));
  TRY(set_nonblocking(out_.get()));
  on_end_ = std::move(on_end);
  in_watch_ = TRY(loop_.watch(in_.get(), EPOLLIN, [this](uint32_t) { read_some(); }));
  // Its errors alone tell, while reading is paused, that the client has gone.
  out_watch_ = TRY(loop_.watch(out_.get(), 0, [this](uint32_t events) { write_some(events); }));
  return {};
}

void Connection::end() {
  if (over_) return;
  auto self = shared_from_this();
  over_ = true;
  in_watch_.reset();
  out_watch_.reset();
  auto calls = std::exchange(calls_, {});
  auto outbound = std::exchange(outbound_, {});
  auto inbound = std::exchange(inbound_, {});
  for (auto& [key, call] : calls) call->abort();
  for (auto& [id, stream] : outbound) stream->cancel();
  for (auto& [id, stream] : inbound) stream->detach();
  if (on_end_) on_end_();
}

void Connection::read_some() {
  auto self = shared_from_this();
  static thread_local std::string buffer(kReadSize, '\0');
  ssize_t count = ::read(in_.get(), buffer.data(), buffer.size());
  if (count < 0 && (errno == EINTR || errno == EAGAIN)) return;
  if (count <= 0) return end();
  unread_.append(buffer, 0, static_cast<size_t>(count));
  update_reading();
}

// Reading stops, in the middle of what has come if need be, while a stream is full or the client
// does not read.
void Connection::update_reading() {
  auto self = shared_from_this();
  std::string_view input = unread_;
  try {
    while (!over_) {
      reading_paused_ = queue_.bytes() > kTooMuch || calls_.size() >= kMaxCalls ||
                        std::any_of(inbound_.begin(), inbound_.end(), [](const auto& entry) {
                          return entry.second->is_claimed() && entry.second->held() > kInboundLimit;
                        });
      if (reading_paused_ || input.empty()) break;
      std::optional<std::string> message = reader_.next(input);
      if (message) take(*std::move(message));
    }
  } catch (const std::exception& error) {
    log_warning("a client is dropped: {}", error.what());
    return end();
  }
  unread_.erase(0, unread_.size() - input.size());
  if (over_) return;
  // Dropped, not paused: epoll reports a hang-up even to a watch that waits for nothing.
  if (reading_paused_) {
    in_watch_.reset();
  } else if (!in_watch_.is_active()) {
    auto watch = loop_.watch(in_.get(), EPOLLIN, [this](uint32_t) { read_some(); });
    if (!watch) return end();
    in_watch_ = *std::move(watch);
  }
}

void Connection::inbound_taken() {
  if (!reading_paused_ || update_posted_) return;
  // Later: the caller is in the middle of taking.
  update_posted_ = true;
  loop_.post([weak = weak_from_this()] {
    auto self = weak.lock();
    if (!self) return;
    self->update_posted_ = false;
    self->update_reading();
  });
}

void Connection::forget_inbound(uint64_t stream) {
  inbound_.erase(stream);
}

void Connection::take(std::string text) {
  bool too_deep = nests_deeper(text, kMaxNesting);
  Json message = too_deep ? parse_shallow(text) : Json::parse(text, nullptr, false);
  text = {};
  // The control plane passes on only what is JSON; a client of another kind learns nothing.
  if (!message.is_object() || !message.contains("method") || !message["method"].is_string()) return;
  if (message.contains("id")) return take_call(std::move(message), too_deep);
  std::string method = message["method"];
  if (message.contains("params")) take_notification(method, message["params"]);
}

void Connection::take_call(Json message, bool too_deep) {
  auto call = std::make_shared<Call>(weak_from_this(), message["id"]);
  if (!is_id(call->id())) return;
  std::string method = message["method"];
  call->params = message.contains("params") ? std::move(message["params"]) : Json::object();
  if (call->params.is_null()) call->params = Json::object();
  calls_[call.get()] = call;
  if (too_deep)
    return call->fail(type_error("the parameters of " + method + " nest deeper than " +
                                 std::to_string(kMaxNesting) + " levels"));
  if (!call->params.is_object())
    return call->fail(type_error("the parameters of " + method + " are no object"));
  // The call may give its parameters away.
  std::vector<uint64_t> streams = named_streams(call->params);
  try {
    return handler_(method, call);
  } catch (const Failure& failure) {
    drop_unclaimed(streams, failure);
    call->fail(failure);
  } catch (const std::exception& error) {
    Failure failure("Error", method + ": " + error.what());
    drop_unclaimed(streams, failure);
    call->fail(failure);
  }
}

void Connection::drop_unclaimed(const std::vector<uint64_t>& streams, const Failure& reason) {
  for (uint64_t id : streams) {
    auto found = inbound_.find(id);
    if (found == inbound_.end() || found->second->is_claimed()) continue;
    std::shared_ptr<InboundStream> stream = found->second;
    stream->cancel(reason);
    inbound_.erase(id);
  }
}

void Connection::take_notification(const std::string& method, Json& params) {
  std::optional<uint64_t> id = stream_id(params);
  if (!id) return;
  if (method == "$sandbox.stream.cancel") {
    auto found = outbound_.find(*id);
    if (found == outbound_.end()) return;
    std::shared_ptr<OutboundStream> stream = found->second;
    outbound_.erase(found);
    stream->cancel();
    return;
  }
  auto found = inbound_.find(*id);
  if (method == "$sandbox.stream.start") {
    if (found != inbound_.end() || inbound_.size() >= kMaxInbound) return;
    inbound_[*id] = std::make_shared<InboundStream>(*this, *id);
    return;
  }
  if (found == inbound_.end()) return;  // cancelled: the client may not have known
  std::shared_ptr<InboundStream> stream = found->second;
  if (method == "$sandbox.stream.enqueue") {
    auto data = params.find("data");
    if (data == params.end() || !data->is_string()) return;
    std::string bytes = std::move(data->get_ref<std::string&>());
    if (!decode_base64(bytes))
      return stream->cancel(type_error("a chunk of the stream is not base64"));
    stream->add(std::move(bytes));
    if (!stream->is_claimed()) limit_unclaimed();
  } else if (method == "$sandbox.stream.end" || method == "$sandbox.stream.error") {
    bool claimed = stream->is_claimed();
    if (claimed) inbound_.erase(*id);
    stream->end(method == "$sandbox.stream.end" ? std::nullopt : client_failure(params));
  }
}

void Connection::limit_unclaimed() {
  size_t held = 0;
  std::shared_ptr<InboundStream> largest;
  for (const auto& [id, stream] : inbound_) {
    if (stream->is_claimed()) continue;
    held += stream->held();
    if (!largest || stream->held() > largest->held()) largest = stream;
  }
  if (held > kUnclaimedLimit && largest)
    largest->cancel({"Error", "no call has used the stream before it held too much"});
}

std::shared_ptr<InboundStream> Connection::claim_stream(uint64_t id) {
  auto found = inbound_.find(id);
  if (found == inbound_.end() || found->second->is_claimed())
    throw type_error("there is no stream " + std::to_string(id));
  std::shared_ptr<InboundStream> stream = found->second;
  stream->claim();
  // An ended one stays with its user alone, so that the number can come again.
  if (stream->has_come()) inbound_.erase(found);
  return stream;
}

std::shared_ptr<OutboundStream> Connection::open_stream() {
  if (outbound_.size() >= kStreamNumbers / 2) throw Failure("Error", "too many open streams");
  uint64_t id;
  do {
    id = stream_base_ + next_stream_++ % kStreamNumbers;
  } while (outbound_.contains(id));
  auto stream = std::make_shared<OutboundStream>(loop_, *this, id);
  outbound_[id] = stream;
  return stream;
}

void Connection::abort(const Json& abort_id) {
  auto calls = calls_;
  for (auto& [key, call] : calls) {
    auto found = call->params.find("abortId");
    if (found != call->params.end() && *found == abort_id && !abort_id.is_null() && call->is_open())
      call->abort();
  }
  for (auto& [id, weak] : std::vector(abortable_)) {
    auto stream = weak.lock();
    if (stream && id == abort_id) stream->abort(abort_failure());
  }
}

void Connection::abort_with(const Json& abort_id, const std::shared_ptr<OutboundStream>& stream) {
  std::erase_if(abortable_, [](const auto& entry) {
    auto other = entry.second.lock();
    return !other || !other->is_wanted();
  });
  if (!abort_id.is_null()) abortable_.emplace_back(abort_id, stream);
}

void Connection::forget_call(const Call& call) {
  if (calls_.size() >= kMaxCalls) inbound_taken();
  calls_.erase(&call);
}

void Connection::notify(const char* method, const Json& params) {
  send(dump({{"jsonrpc", "2.0"}, {"method", method}, {"params", params}}));
}

void Connection::notify(const char* method, uint64_t stream, const Json& members) {
  Json params = members;
  params["streamId"] = stream;
  notify(method, params);
}

void Connection::send_chunk(uint64_t stream, std::string_view bytes) {
  std::string message =
      R"({"jsonrpc":"2.0","method":"$sandbox.stream.enqueue","params":{"streamId":)";
  message += std::to_string(stream) + R"(,"data":")";
  append_base64(message, bytes);
  message += R"("}})";
  send(std::move(message));
}

void Connection::send(std::string message) {
  if (over_) return;
  bool was_empty = queue_.empty();
  queue_.push(std::move(message));
  if (was_empty) watch_output(EPOLLOUT);
}

void Connection::watch_output(uint32_t events) {
  auto changed = loop_.modify(out_watch_, events);
  if (!changed) log_error("a client's output: {}", changed.error().text());
}

void Connection::write_some(uint32_t events) {
  auto self = shared_from_this();
  if ((events & EPOLLERR) != 0 || !queue_.write_to(out_.get())) return end();
  if (queue_.bytes() < kRoom / 2) resume_streams();
  if (!over_ && queue_.empty()) watch_output(0);
  if (!over_ && reading_paused_) update_reading();
}

bool Connection::has_room() const {
  return queue_.bytes() < kRoom;
}

void Connection::wait_for_room(std::weak_ptr<OutboundStream> stream) {
  waiting_for_room_.push_back(std::move(stream));
}

void Connection::resume_streams() {
  auto waiting = std::exchange(waiting_for_room_, {});
  for (auto& weak : waiting) {
    if (auto stream = weak.lock()) stream->flush();
  }
}

}  // namespace hutch::agent::rpc
