// Fuzzes the host's side of the agent protocol between a host that does everything a program can
// and an agent that is mostly right. Checked: what the agent can make the host hold is bounded by
// the credit; no event of a task follows its last one or its close; the host never sends more input
// than the agent has room for; after an error nothing more is taken.
#include <map>
#include <memory>
#include <vector>

#include "lib/agent_client.h"
#include "tests/fuzz/fuzz_input.h"

namespace hutch::fuzz {
namespace {

using namespace protocol::agent;  // NOLINT: the wire's names
using lib::AgentClient;
using lib::Event;

constexpr size_t kMaxTasks = 6;

class Conversation {
 public:
  explicit Conversation(FuzzInput input) : input_(input) {
    uint8_t kind = input_.byte();
    if (kind >= 240) return;
    Hello hello;
    hello.adopt = kind >= 224;
    if (hello.adopt) tasks_[AgentClient::kAdoptedService];
    HelloReply reply;
    reply.adopted = hello.adopt;
    client_.say_hello(hello);
    answer(FrameType::kHelloReply, 0, encode(reply));
  }

  void run() {
    while (!input_.is_empty() && !broken_) {
      if (input_.flip()) {
        host();
      } else {
        agent();
      }
      take_events();
      read_sent();
    }
  }

 private:
  struct Task {
    bool terminal = false;
    bool over = false;         // FAILED or DONE was seen, or it was closed
    uint64_t input_sent = 0;   // bytes that the agent got
    uint64_t input_given = 0;  // credit that it gave beyond the first
    uint64_t held[2] = {};     // output taken but not acknowledged
  };

  // What a program may ask for at any time.
  void host() {
    hutch_task task = known();
    switch (input_.below(8)) {
      case 0: {
        if (tasks_.size() >= kMaxTasks) return;
        Spawn spawn;
        spawn.arguments = {"x"};
        spawn.open_input = input_.flip();
        spawn.terminal = input_.flip();
        tasks_[client_.spawn(spawn).value()].terminal = spawn.terminal;
        return;
      }
      case 1:
        if (tasks_.size() >= kMaxTasks) return;
        if (input_.flip()) {
          tasks_[client_.read_file({.path = "/x"}).value()];
        } else {
          tasks_[client_.write_file({.path = "/x"}).value()];
        }
        return;
      case 2: {
        std::vector<std::byte> bytes(input_.take<uint32_t>() % (2 * kInitialCredit));
        Result<size_t> taken = client_.write(task, bytes);
        FUZZ_CHECK(!taken || *taken <= bytes.size());
        return;
      }
      case 3:
        (void)client_.close_input(task);
        return;
      case 4:
        (void)client_.signal(task, input_.byte());
        return;
      case 5:
        client_.close(task);
        if (tasks_.contains(task)) tasks_[task].over = true;
        return;
      case 6: {
        auto found = tasks_.find(task);
        size_t stream = input_.below(2);
        if (found == tasks_.end()) return;
        client_.acknowledge(task, static_cast<int>(stream) + 1, found->second.held[stream]);
        found->second.held[stream] = 0;
        return;
      }
      default:
        if (input_.rarely()) {
          (void)(input_.flip() ? client_.freeze() : client_.thaw());
          return;
        }
        (void)client_.resize(task, input_.byte(), input_.byte());
        return;
    }
  }

  // What the agent says: a frame that may be right or not at this moment.
  void agent() {
    if (input_.rarely()) {
      std::vector<std::byte> noise(input_.byte());
      for (std::byte& byte : noise) byte = static_cast<std::byte>(input_.byte());
      receive(noise);
      return;
    }
    uint32_t channel = input_.rarely() ? input_.take<uint32_t>() : static_cast<uint32_t>(known());
    switch (input_.below(8)) {
      case 0:
        return answer(FrameType::kStarted, channel, encode(Started{input_.byte()}));
      case 1: {
        std::vector<std::byte> bytes(1 + input_.take<uint16_t>() % (kMaxPayload - 1));
        uint8_t stream = input_.rarely() ? input_.byte() : 1 + input_.byte() % 2;
        return answer(FrameType::kOutput, channel, encode(Output{stream, bytes}));
      }
      case 2:
        return answer(FrameType::kOutputEnd, channel,
                      encode(OutputEnd{static_cast<uint8_t>(1 + input_.byte() % 2)}));
      case 3:
        return answer(FrameType::kExited, channel, encode(Exited{false, input_.byte(), false}));
      case 4: {
        InputCredit credit{input_.take<uint32_t>() % (2 * kInitialCredit)};
        // Counted before it is known whether the client takes it: a refusal ends the run.
        if (tasks_.contains(channel)) tasks_[channel].input_given += credit.bytes;
        return answer(FrameType::kInputCredit, channel, encode(credit));
      }
      case 5:
        return answer(FrameType::kFailed, channel,
                      encode(Failed{FailureStage::kExecute, 2, "no\x1b such"}));
      case 6:
        return answer(FrameType::kDone, channel, encode(Done{input_.byte()}));
      default:
        if (input_.flip())
          return input_.flip() ? answer(FrameType::kFrozen, 0, encode(Frozen{"no"}))
                               : answer(FrameType::kThawed, 0, encode(Thawed{}));
        return answer(FrameType::kHelloReply, 0, encode(HelloReply{}));
    }
  }

  void answer(FrameType type, uint32_t channel, const std::vector<std::byte>& payload) {
    receive(encode_frame(type, channel, payload));
  }

  void receive(std::span<const std::byte> bytes) {
    if (!client_.receive(bytes)) broken_ = true;
  }

  hutch_task known() {
    if (tasks_.empty()) return input_.byte();
    return std::next(tasks_.begin(), input_.below(static_cast<uint32_t>(tasks_.size())))->first;
  }

  void take_events() {
    for (std::unique_ptr<Event>& event : client_.events()) {
      if (event->task == 0) continue;
      FUZZ_CHECK(tasks_.contains(event->task));
      Task& task = tasks_[event->task];
      FUZZ_CHECK(!task.over);
      if (event->kind == HUTCH_EVENT_FAILED || event->kind == HUTCH_EVENT_DONE) task.over = true;
      if (event->kind == HUTCH_EVENT_OUTPUT) {
        FUZZ_CHECK(event->stream == 1 || (event->stream == 2 && !task.terminal));
        FUZZ_CHECK(event->data_size > 0);
        uint64_t& held = task.held[event->stream - 1];
        held += event->data_size;
        FUZZ_CHECK(held <= kInitialCredit);
      }
      if (event->kind == HUTCH_EVENT_FAILED)
        FUZZ_CHECK(std::string_view(event->message) == "no  such");
    }
    client_.events().clear();
  }

  // The agent's reading: whole frames only, and no more input than there is room for.
  void read_sent() {
    std::span<const std::byte> bytes = client_.outgoing();
    size_t size = bytes.size();
    for (;;) {
      Result<std::optional<Frame>> frame = reader_.next(bytes);
      FUZZ_CHECK(frame);
      if (!*frame) break;
      if ((*frame)->type != FrameType::kInput) continue;
      Task& task = tasks_[(*frame)->channel];
      task.input_sent += (*frame)->payload.size();
      FUZZ_CHECK(task.input_sent <= kInitialCredit + task.input_given);
    }
    client_.sent(size);
  }

  FuzzInput input_;
  AgentClient client_;
  FrameReader reader_;
  std::map<hutch_task, Task> tasks_;
  bool broken_ = false;
};

}  // namespace
}  // namespace hutch::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  hutch::fuzz::Conversation(hutch::fuzz::FuzzInput(data, size)).run();
  return 0;
}
