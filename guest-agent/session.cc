#include "guest-agent/session.h"

#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/utsname.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "base/log.h"
#include "base/sys.h"
#include "guest-agent/file_transfer.h"
#include "guest-agent/system.h"

namespace hutch::agent {
namespace {

using namespace protocol::agent;  // NOLINT: the wire's names

// Output is read from children while less than this waits to be sent, and again below half of it.
constexpr size_t kRoom = 512 * 1024;
// With this much waiting, a host that asks without reading answers is not listened to.
constexpr size_t kTooMuch = 2 * kRoom;
constexpr size_t kFramesPerSend = 64;

// In time that does not depend on where the two differ.
bool equal_secrets(std::string_view left, std::string_view right) {
  unsigned difference = left.size() == right.size() ? 0 : 1;
  for (size_t i = 0; i < left.size(); i++)
    difference |= static_cast<unsigned char>(left[i] ^ (i < right.size() ? right[i] : 0));
  return difference == 0;
}

}  // namespace

Session::Session(Services& services, SessionOptions options, Fd socket)
    : services_(services), options_(std::move(options)), socket_(std::move(socket)) {}

Session::~Session() {
  if (froze_) services_.freezer.forget();
}

Result<void> Session::start() {
  TRY(set_nonblocking(socket_.get()));
  // A socket that is still connecting says with EPOLLOUT, or an error, that it has come so far.
  watched_ = EPOLLIN;
  watch_ = TRY(
      services_.loop.watch(socket_.get(), watched_, [this](uint32_t events) { on_event(events); }));
  return {};
}

void Session::end(std::string reason) {
  if (over_) return;
  over_ = true;
  reason_ = std::move(reason);
  watch_.reset();
}

void Session::lose(std::string reason) {
  if (over_) return;
  lost_ = true;
  end(std::move(reason));
}

Result<void> Session::reconnect(Fd socket) {
  // The new host did not ask for it.
  if (froze_) services_.freezer.forget();
  socket_ = std::move(socket);
  reader_ = {};
  outgoing_.clear();
  outgoing_bytes_ = 0;
  first_offset_ = 0;
  reason_.clear();
  over_ = lost_ = greeted_ = false;
  held_ = true;
  return start();
}

void Session::on_event(uint32_t events) {
  if ((events & EPOLLERR) != 0) {
    int error_number = 0;
    socklen_t size = sizeof error_number;
    if (::getsockopt(socket_.get(), SOL_SOCKET, SO_ERROR, &error_number, &size) == 0 &&
        error_number != 0)
      return lose(fail_errno(error_number, "the connection to the host").value().message);
  }
  if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) receive();
  if (!over_ && (events & EPOLLOUT) != 0) flush();
}

void Session::receive() {
  static std::array<std::byte, kMaxPayload> buffer;  // single-threaded
  ssize_t count = ::recv(socket_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
  if (count < 0 && (errno == EINTR || errno == EAGAIN)) return;
  if (count < 0) return lose(fail_errno(errno, "receiving from the host").value().message);
  if (count == 0) return lose("");
  std::span<const std::byte> input(buffer.data(), static_cast<size_t>(count));
  while (!over_) {
    auto frame = reader_.next(input);
    if (!frame) return end(frame.error().message);
    if (!*frame) break;
    auto done = dispatch(**std::move(frame));
    if (!done) return end(done.error().message);
  }
}

Result<void> Session::dispatch(Frame frame) {
  if (!greeted_) return greet(frame);
  if (frame.channel == 0) return dispatch_to_agent(frame);
  switch (frame.type) {
    case FrameType::kSpawn:
    case FrameType::kReadFile:
    case FrameType::kWriteFile:
      return open_channel(frame);
    case FrameType::kInput:
    case FrameType::kInputEnd:
    case FrameType::kSignal:
    case FrameType::kResize:
    case FrameType::kCredit:
    case FrameType::kClose:
      break;
    default:
      return fail(fmt::format("a frame of type {} from the host", static_cast<int>(frame.type)));
  }
  // The host may not know yet that an operation is over: what it still says is dropped.
  auto found = operations_.find(frame.channel);
  if (found == operations_.end()) return {};
  if (std::find(finished_.begin(), finished_.end(), frame.channel) != finished_.end()) return {};
  return dispatch_to(*found->second, std::move(frame));
}

Result<void> Session::greet(const Frame& frame) {
  if (frame.type != FrameType::kHello || frame.channel != 0)
    return fail("the host does not begin with Hello");
  // Of another version nothing more can be read. A stranger does not even learn ours.
  uint32_t version = version_of(frame.payload);
  if (options_.token.empty() && version != 0 && version != kVersion) return refuse_version(version);
  auto hello = TRY(decode<Hello>(frame.payload));
  if (!options_.token.empty() && !equal_secrets(hello.token, options_.token))
    return fail("the host's token is not ours");
  if (hello.version != kVersion) return refuse_version(hello.version);
  return welcome(hello);
}

Result<void> Session::refuse_version(uint32_t version) {
  held_ = false;
  send(FrameType::kHelloReply, 0, encode(HelloReply{}));
  flush();  // the host learns our version from it
  return fail(
      fmt::format("the host speaks version {} of the protocol, this agent {}", version, kVersion));
}

// In this order: what is not adopted ends while it is stopped; then the new identity; then, only
// when all of that is in place, the rest runs; then the host hears of it.
Result<void> Session::welcome(const Hello& hello) {
  utsname system{};
  if (::uname(&system) < 0) return fail_errno(errno, "asking for the kernel's release");
  HelloReply reply;
  reply.kernel = system.release;
  bool has_returned = std::exchange(held_, false);
  greeted_ = true;
  Operation* service = has_returned ? keep_service(hello.adopt) : nullptr;
  if (options_.owns_system) {
    Applied applied = apply_hello(hello, options_.ipv6, options_.owns_files);
    reply.reseeded = applied.reseeded;
    reply.problem = std::move(applied.problem);
  }
  if (service != nullptr) service->adopt(kAdoptedChannel, hello.service_environment);
  reply.adopted = service != nullptr;
  if (has_returned && reply.problem.empty()) {
    froze_ = false;
    reply.problem = services_.freezer.thaw();
  }
  send(FrameType::kHelloReply, 0, encode(reply));
  if (!reply.problem.empty()) {
    flush();
    return fail("setting who the machine is: " + reply.problem);
  }
  if (service != nullptr) service->resume();
  return {};
}

// Ends what ran on the connection that was lost, but for the machine's service; null when that is
// not wanted or not there. Of two nobody could tell which is meant.
Operation* Session::keep_service(bool adopt) {
  for (uint32_t channel : finished_) operations_.erase(channel);
  finished_.clear();
  waiting_for_room_.clear();
  std::unique_ptr<Operation> kept;
  size_t count = 0;
  for (auto& [channel, operation] : operations_) {
    if (!adopt || !operation->is_service()) continue;
    count++;
    if (count == 1) kept = std::move(operation);
  }
  operations_.clear();
  if (count != 1) return nullptr;
  Operation* service = kept.get();
  operations_[kAdoptedChannel] = std::move(kept);
  return service;
}

Result<void> Session::dispatch_to_agent(const Frame& frame) {
  auto is_from_host = [&](FrameType type) { return frame.type == type && options_.user.empty(); };
  if (is_from_host(FrameType::kShutdown)) {
    shutdown_ = TRY(decode<Shutdown>(frame.payload))
    .kind;
    return {};
  }
  if (is_from_host(FrameType::kFreeze)) {
    freeze();
    return {};
  }
  if (is_from_host(FrameType::kThaw)) {
    froze_ = false;
    std::string problem = services_.freezer.thaw();
    send(FrameType::kThawed, 0, encode(Thawed{std::move(problem)}));
    return {};
  }
  return fail(fmt::format("a frame of type {} on channel 0", static_cast<int>(frame.type)));
}

void Session::freeze() {
  bool begun = services_.freezer.freeze([this](std::string problem) {
    send(FrameType::kFrozen, 0, encode(Frozen{std::move(problem)}));
  });
  if (begun) froze_ = true;
}

Result<void> Session::open_channel(const Frame& frame) {
  if (operations_.contains(frame.channel))
    return fail(fmt::format("channel {} is in use", frame.channel));
  if (operations_.size() >= kMaxChannels) {
    send_failure(*this, frame.channel, FailureStage::kRequest, EAGAIN,
                 fmt::format("more than {} operations at once", kMaxChannels));
    return {};
  }
  std::unique_ptr<Operation> operation;
  if (frame.type == FrameType::kSpawn) {
    auto request = TRY(decode<Spawn>(frame.payload));
    if (!options_.user.empty()) request.user = options_.user;
    operation = start_process(services_, *this, frame.channel, request);
  } else if (frame.type == FrameType::kReadFile) {
    auto request = TRY(decode<ReadFile>(frame.payload));
    if (!options_.user.empty()) request.user = options_.user;
    operation = start_reading(services_, *this, frame.channel, request);
  } else {
    auto request = TRY(decode<WriteFile>(frame.payload));
    if (!options_.user.empty()) request.user = options_.user;
    operation = start_writing(services_, *this, frame.channel, request);
  }
  operations_[frame.channel] = std::move(operation);
  return {};
}

Result<void> Session::dispatch_to(Operation& operation, Frame frame) {
  switch (frame.type) {
    case FrameType::kInput:
      return operation.input(std::move(frame.payload));
    case FrameType::kInputEnd:
      return operation.input_end();
    case FrameType::kSignal:
      return operation.signal(static_cast<int>(TRY(decode<Signal>(frame.payload)).number));
    case FrameType::kResize: {
      auto size = TRY(decode<Resize>(frame.payload));
      return operation.resize(size.rows, size.columns);
    }
    case FrameType::kCredit: {
      auto credit = TRY(decode<Credit>(frame.payload));
      return operation.credit(credit.stream, credit.bytes);
    }
    default:  // kClose, the only one that is left
      operations_.erase(frame.channel);
      return {};
  }
}

void Session::send(FrameType type, uint32_t channel, std::span<const std::byte> payload) {
  if (over_ || held_) return;  // nobody would hear it
  outgoing_.push_back(encode_frame(type, channel, payload));
  outgoing_bytes_ += outgoing_.back().size();
}

bool Session::has_room() const {
  // Without a host, what a process writes waits for the next one.
  return !over_ && !held_ && outgoing_bytes_ < kRoom;
}

void Session::wait_for_room(uint32_t channel) {
  waiting_for_room_.push_back(channel);
}

void Session::finish(uint32_t channel) {
  finished_.push_back(channel);
}

void Session::flush() {
  while (!outgoing_.empty()) {
    std::array<iovec, kFramesPerSend> parts;
    size_t count = 0;
    for (auto frame = outgoing_.begin(); frame != outgoing_.end() && count < parts.size();
         frame++, count++) {
      size_t skip = count == 0 ? first_offset_ : 0;
      parts[count] = {frame->data() + skip, frame->size() - skip};
    }
    msghdr message{};
    message.msg_iov = parts.data();
    message.msg_iovlen = count;
    ssize_t sent = ::sendmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    // ENOTCONN: the connection is still being made.
    if (sent < 0 && (errno == EAGAIN || errno == ENOTCONN)) break;
    if (sent < 0) return lose(fail_errno(errno, "sending to the host").value().message);
    auto left = static_cast<size_t>(sent);
    outgoing_bytes_ -= left;
    while (left > 0) {
      size_t of_first = std::min(left, outgoing_.front().size() - first_offset_);
      first_offset_ += of_first;
      left -= of_first;
      if (first_offset_ == outgoing_.front().size()) {
        outgoing_.pop_front();
        first_offset_ = 0;
      }
    }
  }
}

void Session::update_watch() {
  uint32_t wanted = (outgoing_.empty() ? 0U : static_cast<uint32_t>(EPOLLOUT)) |
                    (outgoing_bytes_ > kTooMuch ? 0U : static_cast<uint32_t>(EPOLLIN));
  if (wanted == watched_) return;
  watched_ = wanted;
  auto changed = services_.loop.modify(watch_, wanted);
  if (!changed) end(changed.error().message);
}

void Session::end_round() {
  if (over_) return;
  for (uint32_t channel : finished_) operations_.erase(channel);
  finished_.clear();
  flush();
  if (!over_ && outgoing_bytes_ < kRoom / 2 && !waiting_for_room_.empty()) {
    std::vector<uint32_t> waiting;
    waiting.swap(waiting_for_room_);
    for (uint32_t channel : waiting) {
      auto found = operations_.find(channel);
      if (found != operations_.end()) found->second->resume();
    }
  }
  if (!over_) update_watch();
}

}  // namespace hutch::agent
