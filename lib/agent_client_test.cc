// AgentClient against a scripted agent: the conversation, the credit, and every way to break it.
#include "lib/agent_client.h"

#include <doctest/doctest.h>

#include "lib/agent_connection.h"

using namespace hutch;
using namespace hutch::lib;
using namespace hutch::protocol::agent;

namespace {

// Plays the agent. Reads what the client sends frame by frame, and answers with chosen frames.
struct Conversation {
  AgentClient client;
  FrameReader reader;

  std::vector<Frame> sent() {
    std::vector<Frame> frames;
    std::span<const std::byte> bytes = client.outgoing();
    size_t size = bytes.size();
    while (auto frame = reader.next(bytes).value()) frames.push_back(std::move(*frame));
    client.sent(size);
    return frames;
  }

  Result<void> answer(FrameType type, uint64_t channel, std::vector<std::byte> payload = {}) {
    return client.receive(encode_frame(type, static_cast<uint32_t>(channel), payload));
  }

  void greet() {
    client.say_hello({});
    REQUIRE(answer(FrameType::kHelloReply, 0, encode(HelloReply{.kernel = "6.12"})));
    take_events();
  }

  void adopt() {
    client.say_hello({.adopt = true});
    REQUIRE(answer(FrameType::kHelloReply, 0, encode(HelloReply{.adopted = true})));
    take_events();
    sent();
  }

  hutch_task start(bool terminal = false) {
    Spawn spawn;
    spawn.arguments = {"cat"};
    spawn.open_input = true;
    spawn.terminal = terminal;
    hutch_task task = client.spawn(spawn).value();
    REQUIRE(answer(FrameType::kStarted, task, encode(Started{7})));
    take_events();
    sent();
    return task;
  }

  Result<void> output(hutch_task task, uint8_t stream, size_t size) {
    std::vector<std::byte> bytes(size, std::byte{'x'});
    return answer(FrameType::kOutput, task, encode(Output{stream, bytes}));
  }

  Result<void> exit(hutch_task task) {
    return answer(FrameType::kExited, task, encode(Exited{false, 0, false}));
  }

  Result<void> end(hutch_task task, uint8_t stream) {
    return answer(FrameType::kOutputEnd, task, encode(OutputEnd{stream}));
  }

  std::vector<int> take_events() {
    std::vector<int> kinds;
    for (auto& event : client.events()) kinds.push_back(event->kind);
    client.events().clear();
    return kinds;
  }
};

// Spends the whole output credit of a stream.
void fill(Conversation& talk, hutch_task task, uint8_t stream) {
  constexpr size_t kPart = kMaxPayload - 1;
  for (size_t left = kInitialCredit; left > 0;) {
    size_t part = std::min(kPart, left);
    REQUIRE(talk.output(task, stream, part));
    left -= part;
  }
}

}  // namespace

TEST_CASE("requests wait until the connection is open, behind the hello") {
  Conversation talk;
  Spawn spawn;
  spawn.arguments = {"true"};
  REQUIRE(talk.client.spawn(spawn));
  CHECK(talk.client.outgoing().empty());
  talk.client.say_hello({});
  std::vector<Frame> frames = talk.sent();
  REQUIRE(frames.size() == 2);
  CHECK(frames[0].type == FrameType::kHello);
  CHECK(frames[1].type == FrameType::kSpawn);
}

TEST_CASE("a process runs from start to exit") {
  Conversation talk;
  talk.greet();
  hutch_task task = talk.start();
  REQUIRE(talk.output(task, 1, 3));
  REQUIRE(talk.output(task, 2, 4));
  REQUIRE(talk.answer(FrameType::kExited, task, encode(Exited{true, 9, true})));
  auto& events = talk.client.events();
  REQUIRE(events.size() == 3);
  CHECK(events[0]->data_size == 3);
  CHECK(events[1]->stream == 2);
  CHECK(events[2]->kind == HUTCH_EVENT_EXITED);
  CHECK(events[2]->signaled == 1);
  CHECK(events[2]->value == 9);
  CHECK(events[2]->out_of_memory == 1);
}

TEST_CASE("output may follow the exit until both streams have ended, then the task is over") {
  Conversation talk;
  talk.greet();
  hutch_task task = talk.start();
  REQUIRE(talk.exit(task));
  REQUIRE(talk.output(task, 1, 1));
  REQUIRE(talk.end(task, 1));
  REQUIRE(talk.end(task, 2));
  CHECK_FALSE(talk.client.write(task, {}));
  talk.client.close(task);
  CHECK(talk.sent().empty());
  CHECK_FALSE(talk.end(task, 2));
}

TEST_CASE("a terminal has one stream of output") {
  Conversation talk;
  talk.greet();
  hutch_task task = talk.start(true);
  CHECK_FALSE(talk.output(task, 2, 1));
}

TEST_CASE("output takes credit, and only acknowledged output gives it back") {
  Conversation talk;
  talk.greet();
  hutch_task task = talk.start();
  fill(talk, task, 1);
  talk.client.acknowledge(task, 1, kInitialCredit / 4);
  std::vector<Frame> frames = talk.sent();
  REQUIRE(frames.size() == 1);
  auto credit = decode<Credit>(frames[0].payload).value();
  CHECK(credit.stream == 1);
  CHECK(credit.bytes == kInitialCredit / 4);
  CHECK(talk.output(task, 1, 1));
}

TEST_CASE("small acknowledgements are gathered") {
  Conversation talk;
  talk.greet();
  hutch_task task = talk.start();
  REQUIRE(talk.output(task, 1, 100));
  talk.client.acknowledge(task, 1, 100);
  CHECK(talk.sent().empty());
}

TEST_CASE("output beyond the credit is an error") {
  Conversation talk;
  talk.greet();
  hutch_task task = talk.start();
  fill(talk, task, 2);
  CHECK_FALSE(talk.output(task, 2, 1));
}

TEST_CASE("credit that was gathered but not sent is not the agent's yet") {
  Conversation talk;
  talk.greet();
  hutch_task task = talk.start();
  fill(talk, task, 1);
  talk.client.acknowledge(task, 1, 100);
  CHECK_FALSE(talk.output(task, 1, 1));
}

TEST_CASE("input is taken within the agent's credit and resumes with it") {
  Conversation talk;
  talk.greet();
  hutch_task task = talk.start();
  std::vector<std::byte> bytes(kInitialCredit + 10);
  CHECK(talk.client.write(task, bytes).value() == kInitialCredit);
  CHECK(talk.client.write(task, bytes).value() == 0);
  size_t total = 0;
  for (const Frame& frame : talk.sent()) {
    CHECK(frame.type == FrameType::kInput);
    total += frame.payload.size();
  }
  CHECK(total == kInitialCredit);
  REQUIRE(talk.answer(FrameType::kInputCredit, task, encode(InputCredit{5})));
  CHECK(talk.take_events() == std::vector<int>{HUTCH_EVENT_WRITABLE});
  CHECK(talk.client.write(task, bytes).value() == 5);
}

TEST_CASE("input waits for the start of the process") {
  Conversation talk;
  talk.greet();
  Spawn spawn;
  spawn.arguments = {"cat"};
  spawn.open_input = true;
  hutch_task task = talk.client.spawn(spawn).value();
  std::vector<std::byte> bytes(1);
  CHECK(talk.client.write(task, bytes).value() == 0);
  REQUIRE(talk.answer(FrameType::kStarted, task, encode(Started{1})));
  CHECK(talk.take_events() == std::vector<int>{HUTCH_EVENT_STARTED, HUTCH_EVENT_WRITABLE});
}

TEST_CASE("no input is taken after its end") {
  Conversation talk;
  talk.greet();
  hutch_task task = talk.start();
  REQUIRE(talk.client.close_input(task));
  CHECK(talk.sent().at(0).type == FrameType::kInputEnd);
  CHECK_FALSE(talk.client.write(task, {}));
  CHECK(talk.client.close_input(task));
  CHECK(talk.sent().empty());
}

TEST_CASE("more input credit than was spent is an error") {
  Conversation talk;
  talk.greet();
  hutch_task task = talk.start();
  CHECK_FALSE(talk.answer(FrameType::kInputCredit, task, encode(InputCredit{1})));
}

TEST_CASE("input credit of nothing is an error") {
  Conversation talk;
  talk.greet();
  hutch_task task = talk.start();
  std::vector<std::byte> bytes(10);
  REQUIRE(talk.client.write(task, bytes));
  CHECK_FALSE(talk.answer(FrameType::kInputCredit, task, encode(InputCredit{0})));
}

TEST_CASE("a failure ends the task and its text is made plain") {
  Conversation talk;
  talk.greet();
  Spawn spawn;
  spawn.arguments = {"nothing"};
  hutch_task task = talk.client.spawn(spawn).value();
  Failed failed{FailureStage::kExecute, 2, "no \x1b[31msuch\nprogram"};
  REQUIRE(talk.answer(FrameType::kFailed, task, encode(failed)));
  auto& event = talk.client.events().at(0);
  CHECK(event->stage == HUTCH_STAGE_EXECUTE);
  CHECK(event->error_number == 2);
  CHECK(std::string(event->message) == "no  [31msuch program");
  CHECK_FALSE(talk.client.signal(task, 9));
}

TEST_CASE("frames of a closed task are dropped, until the agent has seen the close") {
  Conversation talk;
  talk.greet();
  hutch_task task = talk.start();
  talk.client.close(task);
  CHECK(talk.sent().at(0).type == FrameType::kClose);
  CHECK(talk.output(task, 1, 10));
  CHECK(talk.exit(task));
  CHECK(talk.take_events().empty());
  talk.start();
  CHECK_FALSE(talk.output(task, 1, 10));
}

TEST_CASE("a closed task keeps its credit") {
  Conversation talk;
  talk.greet();
  hutch_task task = talk.start();
  talk.client.close(task);
  fill(talk, task, 1);
  CHECK_FALSE(talk.output(task, 1, 1));
}

TEST_CASE("closing drops the events of that task only") {
  Conversation talk;
  talk.greet();
  hutch_task first = talk.start();
  hutch_task second = talk.start();
  REQUIRE(talk.output(first, 1, 1));
  REQUIRE(talk.output(second, 1, 1));
  talk.client.close(first);
  REQUIRE(talk.client.events().size() == 1);
  CHECK(talk.client.events()[0]->task == second);
}

TEST_CASE("a file is read") {
  Conversation talk;
  talk.greet();
  hutch_task task = talk.client.read_file({"/etc/hostname", "", 0, UINT64_MAX}).value();
  REQUIRE(talk.output(task, 1, 5));
  REQUIRE(talk.answer(FrameType::kDone, task, encode(Done{5})));
  CHECK(talk.take_events() == std::vector<int>{HUTCH_EVENT_OUTPUT, HUTCH_EVENT_DONE});
}

TEST_CASE("a file is written") {
  Conversation talk;
  talk.greet();
  hutch_task task = talk.client.write_file({"/tmp/x", "", 0644, false, false}).value();
  REQUIRE(talk.answer(FrameType::kStarted, task, encode(Started{0})));
  CHECK(talk.client.write(task, std::vector<std::byte>(3)).value() == 3);
  CHECK_FALSE(talk.answer(FrameType::kDone, task, encode(Done{3})));
  REQUIRE(talk.client.close_input(task));
  REQUIRE(talk.answer(FrameType::kDone, task, encode(Done{3})));
}

TEST_CASE("freeze and thaw are answered by an event each") {
  Conversation talk;
  talk.greet();
  talk.sent();
  REQUIRE(talk.client.freeze());
  CHECK_FALSE(talk.client.freeze());
  std::vector<Frame> frames = talk.sent();
  REQUIRE(frames.size() == 1);
  CHECK(frames[0].type == FrameType::kFreeze);
  CHECK(frames[0].channel == 0);
  CHECK(frames[0].payload.empty());
  REQUIRE(talk.answer(FrameType::kFrozen, 0, encode(Frozen{"some\x1bthing"})));
  REQUIRE(talk.client.thaw());
  CHECK_FALSE(talk.client.thaw());
  frames = talk.sent();
  REQUIRE(frames.size() == 1);
  CHECK(frames[0].type == FrameType::kThaw);
  REQUIRE(talk.answer(FrameType::kThawed, 0, encode(Thawed{})));
  auto& events = talk.client.events();
  REQUIRE(events.size() == 2);
  CHECK(events[0]->kind == HUTCH_EVENT_FROZEN);
  CHECK(events[0]->task == 0);
  CHECK(std::string(events[0]->message) == "some thing");
  CHECK(events[1]->kind == HUTCH_EVENT_THAWED);
  CHECK(std::string(events[1]->message).empty());
  CHECK(talk.client.freeze());
}

TEST_CASE("an adopted service is a process that has started, under a number of its own") {
  Conversation talk;
  constexpr hutch_task kService = AgentClient::kAdoptedService;
  CHECK_FALSE(talk.client.write(kService, {}));
  // Asked for before the hello, and not mistaken for it.
  hutch_task early = talk.client.spawn({.arguments = {"true"}}).value();
  CHECK(early != kService);
  talk.client.say_hello({.adopt = true, .service_environment = {"A=1"}});
  CHECK(talk.client.write(kService, std::vector<std::byte>(10)).value() == 10);
  REQUIRE(talk.answer(FrameType::kHelloReply, 0, encode(HelloReply{.adopted = true})));
  std::vector<Frame> frames = talk.sent();
  REQUIRE(frames.size() == 3);
  auto hello = decode<Hello>(frames[0].payload).value();
  CHECK(hello.adopt);
  CHECK(hello.service_environment == std::vector<std::string>{"A=1"});
  CHECK(frames[1].type == FrameType::kSpawn);
  CHECK(frames[2].type == FrameType::kInput);
  CHECK(frames[2].channel == kAdoptedChannel);
  CHECK(talk.take_events() == std::vector<int>{HUTCH_EVENT_AGENT_READY});

  // Its credit is that of a beginning, both ways.
  CHECK(talk.client.write(kService, std::vector<std::byte>(2 * kInitialCredit)).value() ==
        kInitialCredit - 10);
  REQUIRE(talk.answer(FrameType::kInputCredit, kService, encode(InputCredit{100})));
  CHECK(talk.take_events() == std::vector<int>{HUTCH_EVENT_WRITABLE});
  fill(talk, kService, 1);
  fill(talk, kService, 2);
  CHECK_FALSE(talk.output(kService, 1, 1));
}

TEST_CASE("an adopted service ends like any process, or is closed") {
  Conversation talk;
  talk.adopt();
  constexpr hutch_task kService = AgentClient::kAdoptedService;
  SUBCASE("its input ends, and it exits") {
    REQUIRE(talk.client.close_input(kService));
    CHECK(talk.sent().at(0).type == FrameType::kInputEnd);
    REQUIRE(talk.exit(kService));
    REQUIRE(talk.end(kService, 1));
    REQUIRE(talk.end(kService, 2));
    CHECK(talk.take_events() ==
          std::vector<int>{HUTCH_EVENT_EXITED, HUTCH_EVENT_OUTPUT_END, HUTCH_EVENT_OUTPUT_END});
  }
  SUBCASE("close") {
    talk.client.close(kService);
    CHECK(talk.sent().at(0).type == FrameType::kClose);
    REQUIRE(talk.output(kService, 1, 1));
    CHECK(talk.take_events().empty());
  }
  CHECK_FALSE(talk.client.write(kService, {}));
  CHECK(talk.start() != kService);
}

TEST_CASE("a restored machine that is not what was asked for is an error") {
  Conversation talk;
  auto refusal = [&](const HelloReply& reply) {
    auto answered = talk.answer(FrameType::kHelloReply, 0, encode(reply));
    return answered ? std::string() : answered.error().message;
  };
  const std::string entropy(256, 'x');
  SUBCASE("its service is gone") {
    talk.client.say_hello({.adopt = true});
    CHECK(refusal({.adopted = false}) == "the restored machine has no service");
  }
  SUBCASE("it is not reseeded") {
    talk.client.say_hello({.entropy = entropy, .adopt = true});
    CHECK(refusal({.reseeded = false, .adopted = true}) ==
          "the restored machine has the random numbers of the one that was saved");
  }
  SUBCASE("it is not reseeded, and has no service to keep") {
    talk.client.say_hello({.entropy = entropy, .machine_id = std::string(32, 'a')});
    CHECK(refusal({.reseeded = false}) ==
          "the restored machine has the random numbers of the one that was saved");
  }
  SUBCASE("its identity could not be set") {
    talk.client.say_hello({});
    CHECK(refusal({.problem = "no disk"}) ==
          "the restored machine could not become another one: no disk");
  }
  SUBCASE("all is well") {
    talk.client.say_hello({.entropy = entropy, .adopt = true});
    CHECK(refusal({.reseeded = true, .adopted = true}).empty());
  }
  SUBCASE("an agent that is no machine's of ours leaves the random numbers alone") {
    talk.client.say_hello({.entropy = entropy});
    CHECK(refusal({.reseeded = false}).empty());
  }
}

TEST_CASE("a greeting carries what was chosen, and fresh identifiers only when asked to") {
  Hello plain = make_hello({}).value();
  CHECK(plain.entropy.size() == 256);
  CHECK(plain.machine_id.empty());
  CHECK(plain.boot_id.empty());
  CHECK(plain.mac.empty());
  CHECK_FALSE(plain.adopt);
  HelloOptions options{.set_clock = true,
                       .host_name = "name",
                       .renew = true,
                       .mac = std::string("\x52\x54\0\x01\x02\x03", 6),
                       .adopt = true,
                       .service_environment = {"A=1"}};
  // The protocol takes it, and each is another one.
  Hello first = decode<Hello>(encode(make_hello(options).value())).value();
  Hello second = decode<Hello>(encode(make_hello(options).value())).value();
  CHECK(first.mac == options.mac);
  CHECK(first.adopt);
  CHECK(first.service_environment == options.service_environment);
  CHECK(first.machine_id.size() == 32);
  CHECK(first.boot_id.size() == 36);
  CHECK(first.boot_id[14] == '4');
  CHECK(first.machine_id != second.machine_id);
  CHECK(first.boot_id != second.boot_id);
  CHECK(first.entropy != second.entropy);
}

TEST_CASE("arguments that do not fit into a frame are refused") {
  Conversation talk;
  talk.greet();
  Spawn spawn;
  spawn.arguments = {"echo", std::string(kMaxPayload, 'x')};
  CHECK_FALSE(talk.client.spawn(spawn));
}

TEST_CASE("what a hostile agent may not send") {
  Conversation talk;
  SUBCASE("a hello before ours") {
    CHECK_FALSE(talk.answer(FrameType::kHelloReply, 0, encode(HelloReply{})));
  }
  SUBCASE("another version") {
    talk.client.say_hello({});
    CHECK_FALSE(talk.answer(FrameType::kHelloReply, 0, encode(HelloReply{.version = 99})));
  }
  SUBCASE("another version with another layout, and it learns which") {
    talk.client.say_hello({});
    std::vector<std::byte> other = encode(HelloReply{.version = 99});
    other.push_back(std::byte{1});
    auto refused = talk.answer(FrameType::kHelloReply, 0, other);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().message ==
          "the agent speaks version 99 of its protocol, this program version 3");
  }
  SUBCASE("a service that nobody asked for") {
    talk.client.say_hello({});
    CHECK_FALSE(talk.answer(FrameType::kHelloReply, 0, encode(HelloReply{.adopted = true})));
  }
  SUBCASE("an answer to no freeze") {
    talk.greet();
    CHECK_FALSE(talk.answer(FrameType::kFrozen, 0, encode(Frozen{})));
  }
  SUBCASE("a second answer to a freeze") {
    talk.greet();
    REQUIRE(talk.client.freeze());
    REQUIRE(talk.answer(FrameType::kFrozen, 0, encode(Frozen{})));
    CHECK_FALSE(talk.answer(FrameType::kFrozen, 0, encode(Frozen{})));
  }
  SUBCASE("an answer to a thaw, when a freeze was asked for") {
    talk.greet();
    REQUIRE(talk.client.freeze());
    CHECK_FALSE(talk.answer(FrameType::kThawed, 0, encode(Thawed{})));
  }
  SUBCASE("an answer before its hello") {
    REQUIRE(talk.client.freeze());
    talk.client.say_hello({});
    CHECK_FALSE(talk.answer(FrameType::kFrozen, 0, encode(Frozen{})));
  }
  SUBCASE("an answer on a task") {
    talk.greet();
    hutch_task task = talk.start();
    REQUIRE(talk.client.freeze());
    CHECK_FALSE(talk.answer(FrameType::kFrozen, task, encode(Frozen{})));
  }
  SUBCASE("what an agent says to its services") {
    talk.greet();
    CHECK_FALSE(talk.answer(FrameType::kRenew, 0, encode(Renew{})));
  }
  SUBCASE("a second start, of an adopted service") {
    talk.adopt();
    CHECK_FALSE(talk.answer(FrameType::kStarted, AgentClient::kAdoptedService, encode(Started{1})));
  }
  SUBCASE("a second hello") {
    talk.greet();
    CHECK_FALSE(talk.answer(FrameType::kHelloReply, 0, encode(HelloReply{})));
  }
  SUBCASE("a task's frame before its hello") {
    Spawn spawn;
    spawn.arguments = {"true"};
    hutch_task task = talk.client.spawn(spawn).value();
    talk.client.say_hello({});
    CHECK_FALSE(talk.answer(FrameType::kStarted, task, encode(Started{1})));
  }
  SUBCASE("another frame on channel 0") {
    talk.greet();
    CHECK_FALSE(talk.answer(FrameType::kExited, 0, encode(Exited{})));
  }
  SUBCASE("a task that does not exist") {
    talk.greet();
    CHECK_FALSE(talk.answer(FrameType::kStarted, 1, encode(Started{1})));
  }
  SUBCASE("a frame that only the host sends") {
    talk.greet();
    CHECK_FALSE(talk.answer(FrameType::kInput, talk.start()));
  }
  SUBCASE("output before the start") {
    talk.greet();
    Spawn spawn;
    spawn.arguments = {"true"};
    CHECK_FALSE(talk.output(talk.client.spawn(spawn).value(), 1, 1));
  }
  SUBCASE("output of no bytes") {
    talk.greet();
    CHECK_FALSE(talk.output(talk.start(), 1, 0));
  }
  SUBCASE("output on stream 3") {
    talk.greet();
    CHECK_FALSE(talk.output(talk.start(), 3, 1));
  }
  SUBCASE("output after its end") {
    talk.greet();
    hutch_task task = talk.start();
    REQUIRE(talk.end(task, 1));
    CHECK_FALSE(talk.output(task, 1, 1));
  }
  SUBCASE("a second end of output") {
    talk.greet();
    hutch_task task = talk.start();
    REQUIRE(talk.end(task, 1));
    CHECK_FALSE(talk.end(task, 1));
  }
  SUBCASE("a second start") {
    talk.greet();
    CHECK_FALSE(talk.answer(FrameType::kStarted, talk.start(), encode(Started{1})));
  }
  SUBCASE("a second exit") {
    talk.greet();
    hutch_task task = talk.start();
    REQUIRE(talk.exit(task));
    CHECK_FALSE(talk.exit(task));
  }
  SUBCASE("a failure after the start") {
    talk.greet();
    Failed failed{FailureStage::kExecute, 2, ""};
    CHECK_FALSE(talk.answer(FrameType::kFailed, talk.start(), encode(failed)));
  }
  SUBCASE("the end of a transfer for a process") {
    talk.greet();
    CHECK_FALSE(talk.answer(FrameType::kDone, talk.start(), encode(Done{0})));
  }
  SUBCASE("an exit status that no process has") {
    talk.greet();
    CHECK_FALSE(talk.answer(FrameType::kExited, talk.start(), encode(Exited{false, 256, false})));
  }
  SUBCASE("a payload that is cut short") {
    talk.greet();
    CHECK_FALSE(talk.answer(FrameType::kExited, talk.start(), std::vector<std::byte>(2)));
  }
  SUBCASE("a frame that is longer than allowed") {
    talk.greet();
    FrameHeader header{};
    header.payload_size = kMaxPayload + 1;
    header.type = static_cast<uint8_t>(FrameType::kOutput);
    header.channel = 1;
    CHECK_FALSE(talk.client.receive(std::as_bytes(std::span(&header, 1))));
  }
}
