#include "lib/agent_client.h"

#include <algorithm>
#include <cstring>

namespace hutch::lib {

using namespace protocol::agent;

namespace {

// Credit goes back in steps of this size, so that a stream of small reads does not double the
// number of frames.
constexpr uint32_t kCreditStep = kInitialCredit / 4;
// Input waits in the guest's own credit; this bounds what waits here for a slow connection.
constexpr size_t kMaxOutgoing = 1 << 20;

tl::unexpected<Error> unexpected_frame(const char* what) {
  return fail(fmt::format("{} that is not allowed at this point", what));
}

}  // namespace

void AgentClient::say_hello(Hello hello) {
  if (greeted_) return;
  greeted_ = true;
  // A machine that becomes another one must not share its random numbers with its siblings. An
  // agent that merely runs somewhere may leave the system's alone.
  bool renews = hello.adopt || !hello.machine_id.empty() || !hello.boot_id.empty();
  expects_reseeding_ = renews && !hello.entropy.empty();
  expects_service_ = hello.adopt;
  if (expects_service_) {
    Channel channel;
    channel.kind = Kind::kProcess;
    channel.started = channel.input_open = true;
    channel.input_credit = kInitialCredit;
    for (Stream& stream : channel.streams) stream = {.window = kInitialCredit, .ended = false};
    channels_.emplace(kAdoptedChannel, channel);
  }
  std::vector<std::byte> held = std::move(held_);
  send(FrameType::kHello, 0, encode(hello));
  outgoing_.insert(outgoing_.end(), held.begin(), held.end());
}

std::span<const std::byte> AgentClient::outgoing() const {
  return std::span(outgoing_).subspan(outgoing_start_);
}

void AgentClient::sent(size_t size) {
  outgoing_start_ += size;
  if (outgoing_start_ == outgoing_.size()) {
    outgoing_.clear();
    outgoing_start_ = 0;
  } else if (outgoing_start_ > kMaxOutgoing) {
    outgoing_.erase(outgoing_.begin(), outgoing_.begin() + static_cast<ptrdiff_t>(outgoing_start_));
    outgoing_start_ = 0;
  }
}

void AgentClient::send(FrameType type, uint32_t channel, std::span<const std::byte> payload) {
  std::vector<std::byte> frame = encode_frame(type, channel, payload);
  std::vector<std::byte>& queue = greeted_ ? outgoing_ : held_;
  queue.insert(queue.end(), frame.begin(), frame.end());
}

Event& AgentClient::add_event(hutch_event_kind kind, hutch_task task) {
  events_.push_back(std::make_unique<Event>(kind, task));
  return *events_.back();
}

Result<hutch_task> AgentClient::open(Kind kind, FrameType type, std::span<const std::byte> payload,
                                     Channel channel) {
  if (payload.size() > kMaxPayload)
    return fail(fmt::format("the arguments and environment are {} bytes; at most {} fit",
                            payload.size(), kMaxPayload),
                "pass large values through a file or standard input");
  if (next_channel_ == UINT32_MAX) return fail("this agent has had 2^32 tasks", "connect anew");
  uint32_t number = next_channel_++;
  channel.kind = kind;
  channels_.emplace(number, channel);
  send(type, number, payload);
  return number;
}

Result<hutch_task> AgentClient::spawn(const Spawn& message) {
  Channel channel;
  channel.streams[0] = {.window = kInitialCredit, .ended = false};
  // A terminal has one output only.
  if (!message.terminal) channel.streams[1] = {.window = kInitialCredit, .ended = false};
  channel.input_open = message.open_input;
  return open(Kind::kProcess, FrameType::kSpawn, encode(message), channel);
}

Result<hutch_task> AgentClient::read_file(const ReadFile& message) {
  Channel channel;
  channel.streams[0] = {.window = kInitialCredit, .ended = false};
  return open(Kind::kReadFile, FrameType::kReadFile, encode(message), channel);
}

Result<hutch_task> AgentClient::write_file(const WriteFile& message) {
  Channel channel;
  channel.input_open = true;
  return open(Kind::kWriteFile, FrameType::kWriteFile, encode(message), channel);
}

Result<AgentClient::Channel*> AgentClient::find(hutch_task task) {
  auto found = task > UINT32_MAX ? channels_.end() : channels_.find(static_cast<uint32_t>(task));
  if (found == channels_.end() || found->second.closed) return fail("this task is over");
  return &found->second;
}

Result<void> AgentClient::signal(hutch_task task, uint32_t number) {
  Channel* channel = TRY(find(task));
  if (channel->kind != Kind::kProcess) return fail("a file transfer takes no signal");
  if (channel->exited) return fail("this process has ended");
  send(FrameType::kSignal, static_cast<uint32_t>(task), encode(Signal{number}));
  return {};
}

Result<void> AgentClient::resize(hutch_task task, uint16_t rows, uint16_t columns) {
  Channel* channel = TRY(find(task));
  if (channel->kind != Kind::kProcess) return fail("a file transfer has no terminal");
  if (channel->exited) return fail("this process has ended");
  send(FrameType::kResize, static_cast<uint32_t>(task), encode(Resize{rows, columns}));
  return {};
}

Result<size_t> AgentClient::write(hutch_task task, std::span<const std::byte> bytes) {
  Channel* channel = TRY(find(task));
  if (!channel->input_open) return fail("this task takes no input any more");
  size_t queued = outgoing_.size() - outgoing_start_;
  size_t room = queued < kMaxOutgoing ? kMaxOutgoing - queued : 0;
  // Nothing is sent before Started: a task that fails has no channel for it any more.
  size_t credit = channel->started ? channel->input_credit : 0;
  size_t count = std::min({bytes.size(), credit, room});
  channel->wants_room = count < bytes.size();
  std::span<const std::byte> rest = bytes.first(count);
  while (!rest.empty()) {
    std::span<const std::byte> part = rest.first(std::min<size_t>(rest.size(), kMaxPayload));
    send(FrameType::kInput, static_cast<uint32_t>(task), part);
    rest = rest.subspan(part.size());
  }
  channel->input_credit -= static_cast<uint32_t>(count);
  return count;
}

Result<void> AgentClient::close_input(hutch_task task) {
  Channel* channel = TRY(find(task));
  if (!channel->input_open) return {};
  channel->input_open = false;
  channel->wants_room = false;
  if (!channel->exited) send(FrameType::kInputEnd, static_cast<uint32_t>(task));
  return {};
}

void AgentClient::close(hutch_task task) {
  auto found = channels_.find(static_cast<uint32_t>(task));
  if (task > UINT32_MAX || found == channels_.end() || found->second.closed) return;
  close_channel(found->first, found->second);
  std::erase_if(events_, [&](const std::unique_ptr<Event>& event) { return event->task == task; });
}

void AgentClient::shutdown(bool reboot) {
  Shutdown message{reboot ? ShutdownKind::kReboot : ShutdownKind::kPowerOff};
  send(FrameType::kShutdown, 0, encode(message));
}

Result<void> AgentClient::freeze() {
  if (freezing_) return fail("the machine's processes are being stopped already");
  freezing_ = true;
  send(FrameType::kFreeze, 0);
  return {};
}

Result<void> AgentClient::thaw() {
  if (thawing_) return fail("the machine's processes are being let run already");
  thawing_ = true;
  send(FrameType::kThaw, 0);
  return {};
}

void AgentClient::acknowledge(hutch_task task, int stream_number, size_t size) {
  auto found = channels_.find(static_cast<uint32_t>(task));
  if (found == channels_.end() || found->second.closed) return;
  Stream& stream = found->second.streams[stream_number - 1];
  if (stream.ended) return;
  stream.returned += static_cast<uint32_t>(size);
  if (stream.returned < kCreditStep) return;
  stream.window += stream.returned;
  send(FrameType::kCredit, static_cast<uint32_t>(task),
       encode(Credit{static_cast<uint8_t>(stream_number), stream.returned}));
  stream.returned = 0;
}

Result<void> AgentClient::receive(std::span<const std::byte> bytes) {
  for (;;) {
    std::optional<Frame> frame = TRY(reader_.next(bytes));
    if (!frame) return {};
    TRY(handle(std::move(*frame)));
  }
}

Result<void> AgentClient::handle(Frame frame) {
  if (frame.channel == 0) return handle_agent(frame);
  if (!ready_) return unexpected_frame("a frame before the agent's hello");
  auto found = channels_.find(frame.channel);
  if (found == channels_.end())
    return fail(fmt::format("a frame for task {}, which does not exist", frame.channel));
  forget_closed_before(frame.channel);
  Channel& channel = found->second;
  switch (frame.type) {
    case FrameType::kStarted:
      return handle_started(frame, channel);
    case FrameType::kFailed:
      TRY(handle_failed(frame, channel));
      channels_.erase(frame.channel);
      return {};
    case FrameType::kOutput:
      return handle_output(frame, channel);
    case FrameType::kOutputEnd:
      TRY(handle_output_end(frame, channel));
      forget_when_over(frame.channel);
      return {};
    case FrameType::kExited:
      TRY(handle_exited(frame, channel));
      forget_when_over(frame.channel);
      return {};
    case FrameType::kInputCredit:
      return handle_input_credit(frame, channel);
    case FrameType::kDone:
      TRY(handle_done(frame, channel));
      channels_.erase(frame.channel);
      return {};
    default:
      return unexpected_frame("a frame that only the host sends");
  }
}

Result<void> AgentClient::handle_agent(const Frame& frame) {
  if (frame.type == FrameType::kHelloReply) return handle_hello_reply(frame);
  bool* asked = frame.type == FrameType::kFrozen   ? &freezing_
                : frame.type == FrameType::kThawed ? &thawing_
                                                   : nullptr;
  if (asked == nullptr) return unexpected_frame("a frame on channel 0");
  if (!ready_ || !*asked) return unexpected_frame("an answer on channel 0");
  *asked = false;
  if (frame.type == FrameType::kFrozen) {
    auto frozen = TRY(decode<Frozen>(frame.payload));
    add_event(HUTCH_EVENT_FROZEN, 0).set_message(frozen.problem);
  } else {
    auto thawed = TRY(decode<Thawed>(frame.payload));
    add_event(HUTCH_EVENT_THAWED, 0).set_message(thawed.problem);
  }
  return {};
}

Result<void> AgentClient::handle_hello_reply(const Frame& frame) {
  if (!greeted_ || ready_) return unexpected_frame("an agent's hello");
  // Of another version nothing more can be read.
  uint32_t version = version_of(frame.payload);
  if (version != kVersion)
    return fail(fmt::format("the agent speaks version {} of its protocol, this program version {}",
                            version, kVersion),
                "use an initramfs that was built together with this program");
  auto reply = TRY(decode<HelloReply>(frame.payload));
  if (!reply.problem.empty())
    return fail("the restored machine could not become another one: " + reply.problem);
  if (expects_reseeding_ && !reply.reseeded)
    return fail("the restored machine has the random numbers of the one that was saved");
  if (reply.adopted && !expects_service_) return fail("an agent that adopted a service unasked");
  if (expects_service_ && !reply.adopted)
    return fail("the restored machine has no service", "save a machine whose service runs");
  ready_ = true;
  add_event(HUTCH_EVENT_AGENT_READY, 0).set_message(reply.kernel);
  return {};
}

Result<void> AgentClient::handle_started(const Frame& frame, Channel& channel) {
  auto started = TRY(decode<Started>(frame.payload));
  if (channel.started || channel.kind == Kind::kReadFile) return unexpected_frame("a start");
  channel.started = true;
  channel.input_credit = kInitialCredit;
  if (channel.closed) return {};
  add_event(HUTCH_EVENT_STARTED, frame.channel).process_id = started.process_id;
  if (channel.wants_room) {
    channel.wants_room = false;
    add_event(HUTCH_EVENT_WRITABLE, frame.channel);
  }
  return {};
}

Result<void> AgentClient::handle_failed(const Frame& frame, const Channel& channel) {
  auto failed = TRY(decode<Failed>(frame.payload));
  if (channel.kind == Kind::kProcess && channel.started) return unexpected_frame("a failure");
  if (channel.closed) return {};
  Event& event = add_event(HUTCH_EVENT_FAILED, frame.channel);
  event.stage = static_cast<int>(failed.stage);
  event.error_number = failed.error_number;
  event.set_message(failed.message);
  return {};
}

Result<void> AgentClient::handle_output(Frame& frame, Channel& channel) {
  auto output = TRY(decode<Output>(frame.payload));
  Stream& stream = channel.streams[output.stream - 1];
  if (channel.kind == Kind::kProcess && !channel.started) return unexpected_frame("output");
  if (stream.ended) return unexpected_frame("output after its end");
  if (output.bytes.empty()) return fail("output of no bytes");
  if (output.bytes.size() > stream.window)
    return fail(
        fmt::format("{} bytes of output with a credit of {}", output.bytes.size(), stream.window));
  stream.window -= static_cast<uint32_t>(output.bytes.size());
  if (channel.closed) return {};
  Event& event = add_event(HUTCH_EVENT_OUTPUT, frame.channel);
  event.stream = output.stream;
  event.set_data(std::vector<std::byte>(output.bytes.begin(), output.bytes.end()));
  event.owner = owner_;
  return {};
}

Result<void> AgentClient::handle_output_end(const Frame& frame, Channel& channel) {
  auto end = TRY(decode<OutputEnd>(frame.payload));
  Stream& stream = channel.streams[end.stream - 1];
  if (channel.kind != Kind::kProcess || !channel.started || stream.ended)
    return unexpected_frame("an end of output");
  stream.ended = true;
  if (channel.closed) return {};
  add_event(HUTCH_EVENT_OUTPUT_END, frame.channel).stream = end.stream;
  return {};
}

Result<void> AgentClient::handle_exited(const Frame& frame, Channel& channel) {
  auto exited = TRY(decode<Exited>(frame.payload));
  if (channel.kind != Kind::kProcess || !channel.started || channel.exited)
    return unexpected_frame("an exit");
  channel.exited = true;
  if (channel.closed) return {};
  Event& event = add_event(HUTCH_EVENT_EXITED, frame.channel);
  event.signaled = exited.signaled;
  event.value = exited.value;
  event.out_of_memory = exited.out_of_memory;
  return {};
}

Result<void> AgentClient::handle_input_credit(const Frame& frame, Channel& channel) {
  auto credit = TRY(decode<InputCredit>(frame.payload));
  if (channel.kind == Kind::kReadFile || !channel.started) return unexpected_frame("input credit");
  if (credit.bytes == 0 || credit.bytes > kInitialCredit - channel.input_credit)
    return fail(
        fmt::format("{} bytes of input credit on top of {}", credit.bytes, channel.input_credit));
  channel.input_credit += credit.bytes;
  if (channel.wants_room && channel.input_open) {
    channel.wants_room = false;
    add_event(HUTCH_EVENT_WRITABLE, frame.channel);
  }
  return {};
}

Result<void> AgentClient::handle_done(const Frame& frame, const Channel& channel) {
  auto done = TRY(decode<Done>(frame.payload));
  bool allowed = channel.kind == Kind::kReadFile ||
                 (channel.kind == Kind::kWriteFile && channel.started && !channel.input_open);
  if (!allowed) return unexpected_frame("the end of a transfer");
  if (channel.closed) return {};
  add_event(HUTCH_EVENT_DONE, frame.channel).transferred = done.size;
  return {};
}

void AgentClient::forget_when_over(uint32_t number) {
  const Channel& channel = channels_.at(number);
  if (channel.exited && channel.streams[0].ended && channel.streams[1].ended)
    channels_.erase(number);
}

void AgentClient::close_channel(uint32_t number, Channel& channel) {
  channel.closed = true;
  channel.input_open = false;
  closed_.push_back({number, next_channel_});
  send(FrameType::kClose, number);
}

void AgentClient::forget_closed_before(uint32_t number) {
  while (!closed_.empty() && closed_.front().next <= number) {
    channels_.erase(closed_.front().channel);
    closed_.pop_front();
  }
}

}  // namespace hutch::lib
