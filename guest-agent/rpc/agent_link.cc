#include "guest-agent/rpc/agent_link.h"

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "base/sys.h"
#include "guest-agent/rpc/failure.h"

namespace hutch::agent::rpc {

using namespace protocol::agent;  // NOLINT: the wire's names

namespace {
// Credit goes back in pieces of this size.
constexpr uint32_t kCreditPiece = kInitialCredit / 4;
}  // namespace

AgentLink::AgentLink(Loop& loop, Fd socket, std::function<void(std::string)> on_end)
    : loop_(loop), socket_(std::move(socket)), on_end_(std::move(on_end)) {}

Result<void> AgentLink::start() {
  TRY(set_nonblocking(socket_.get()));
  watch_ = TRY(loop_.watch(socket_.get(), EPOLLIN, [this](uint32_t events) { on_event(events); }));
  send(FrameType::kHello, 0, encode(Hello{}));
  return {};
}

void AgentLink::end(std::string reason) {
  watch_.reset();
  auto on_end = std::exchange(on_end_, nullptr);
  if (on_end) on_end(std::move(reason));
}

void AgentLink::on_event(uint32_t events) {
  if ((events & EPOLLOUT) != 0) flush();
  if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) == 0) return;
  auto received = receive();
  if (!received) end(received.error().text());
}

Result<void> AgentLink::receive() {
  static thread_local std::array<std::byte, kMaxPayload> buffer;
  ssize_t count = ::recv(socket_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
  if (count < 0 && (errno == EINTR || errno == EAGAIN)) return {};
  if (count < 0) return fail_errno(errno, "receiving from the agent");
  if (count == 0) return fail("the agent has closed the connection");
  std::span<const std::byte> input(buffer.data(), static_cast<size_t>(count));
  for (;;) {
    std::optional<Frame> frame = TRY(reader_.next(input));
    if (!frame) return {};
    TRY(handle(*frame));
  }
}

Result<void> AgentLink::handle(const Frame& frame) {
  if (frame.type == FrameType::kHelloReply) {
    uint32_t version = version_of(frame.payload);
    if (version != kVersion)
      return fail(fmt::format("the agent speaks version {} of its protocol, this service {}",
                              version, kVersion));
    return {};
  }
  if (frame.type == FrameType::kRenew && frame.channel == 0) {
    auto renew = TRY(decode<Renew>(frame.payload));
    if (on_renew_) on_renew_(renew.environment);
    return {};
  }
  auto found = channels_.find(frame.channel);
  if (found == channels_.end()) return {};
  std::shared_ptr<Channel> channel = found->second;
  switch (frame.type) {
    case FrameType::kStarted: {
      auto started = TRY(decode<Started>(frame.payload));
      channel->input_credit = kInitialCredit;
      // What it holds is not needed for as long as the process runs.
      std::exchange(channel->events.started, nullptr)(started.process_id);
      channel->events.input_room();
      return {};
    }
    case FrameType::kFailed: {
      auto failed = TRY(decode<Failed>(frame.payload));
      channels_.erase(found);
      channel->events.failed(failed);
      return {};
    }
    case FrameType::kOutput: {
      auto output = TRY(decode<Output>(frame.payload));
      channel->events.output(
          output.stream,
          std::string(reinterpret_cast<const char*>(output.bytes.data()), output.bytes.size()));
      return {};
    }
    case FrameType::kOutputEnd: {
      uint8_t stream = TRY(decode<OutputEnd>(frame.payload))
      .stream;
      channel->ended[stream - 1] = true;
      channel->events.output_end(stream);
      forget_when_over(frame.channel);
      return {};
    }
    case FrameType::kInputCredit:
      channel->input_credit += TRY(decode<InputCredit>(frame.payload))
      .bytes;
      channel->events.input_room();
      return {};
    case FrameType::kExited: {
      auto exited = TRY(decode<Exited>(frame.payload));
      channel->exited = true;
      channel->events.exited(exited);
      forget_when_over(frame.channel);
      return {};
    }
    default:
      return fail(fmt::format("a frame of type {} from the agent", static_cast<int>(frame.type)));
  }
}

void AgentLink::forget_when_over(uint32_t number) {
  auto found = channels_.find(number);
  if (found == channels_.end()) return;
  std::shared_ptr<Channel> channel = found->second;
  if (!channel->exited || !channel->ended[0] || !channel->ended[1]) return;
  channels_.erase(found);
  channel->events.over();
}

uint32_t AgentLink::spawn(const Spawn& request, ProcessEvents events) {
  std::vector<std::byte> payload = encode(request);
  if (payload.size() > kMaxPayload)
    throw errno_failure(E2BIG, "the arguments and environment are " +
                                   std::to_string(payload.size()) + " bytes, at most " +
                                   std::to_string(kMaxPayload) + " fit");
  uint32_t number = next_channel_++;
  auto channel = std::make_shared<Channel>();
  channel->events = std::move(events);
  channels_[number] = std::move(channel);
  send(FrameType::kSpawn, number, payload);
  return number;
}

size_t AgentLink::input_room(uint32_t channel) const {
  auto found = channels_.find(channel);
  return found == channels_.end() ? 0 : found->second->input_credit;
}

void AgentLink::send_input(uint32_t channel, std::string_view bytes) {
  auto found = channels_.find(channel);
  if (found == channels_.end()) return;
  found->second->input_credit -= std::min(found->second->input_credit, bytes.size());
  while (!bytes.empty()) {
    std::string_view part = bytes.substr(0, kMaxPayload);
    send(FrameType::kInput, channel, std::as_bytes(std::span(part)));
    bytes.remove_prefix(part.size());
  }
}

void AgentLink::end_input(uint32_t channel) {
  if (channels_.contains(channel)) send(FrameType::kInputEnd, channel);
}

void AgentLink::signal(uint32_t channel, uint32_t number) {
  if (channels_.contains(channel)) send(FrameType::kSignal, channel, encode(Signal{number}));
}

void AgentLink::give_credit(uint32_t channel, int stream, size_t bytes) {
  auto found = channels_.find(channel);
  if (found == channels_.end() || found->second->ended[stream - 1]) return;
  uint32_t& owed = found->second->owed[stream - 1];
  owed += static_cast<uint32_t>(bytes);
  if (owed < kCreditPiece) return;
  send(FrameType::kCredit, channel, encode(Credit{static_cast<uint8_t>(stream), owed}));
  owed = 0;
}

void AgentLink::send(FrameType type, uint32_t channel, std::span<const std::byte> payload) {
  outgoing_.push_back(encode_frame(type, channel, payload));
  if (outgoing_.size() == 1) flush();
}

void AgentLink::flush() {
  while (!outgoing_.empty()) {
    std::vector<std::byte>& first = outgoing_.front();
    ssize_t sent = ::send(socket_.get(), first.data() + first_offset_, first.size() - first_offset_,
                          MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) break;  // an error other than EAGAIN comes with reading, too
    first_offset_ += static_cast<size_t>(sent);
    if (first_offset_ < first.size()) continue;
    outgoing_.pop_front();
    first_offset_ = 0;
  }
  if (!watch_.is_active()) return;
  uint32_t wanted = EPOLLIN | (outgoing_.empty() ? 0U : static_cast<uint32_t>(EPOLLOUT));
  auto changed = loop_.modify(watch_, wanted);
  if (!changed) end(changed.error().text());
}

}  // namespace hutch::agent::rpc
