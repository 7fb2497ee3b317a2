// The VMM's side of the broker protocol, against a broker that this test plays.
#include "vmm/broker_client.h"

#include <doctest/doctest.h>
#include <sys/socket.h>

#include <optional>
#include <string>

#include "base/sys.h"
#include "protocol/broker.h"

using namespace hutch;
using namespace hutch::vmm;
namespace wire = hutch::protocol::broker;

namespace {

struct Seen {
  int connected = 0;
  int refused = 0;
  std::optional<size_t> consumed;
  Fd stream;

  net::OpenCallbacks callbacks() {
    return {[this] { connected++; },
            [this](Fd fd, size_t count) {
              stream = std::move(fd);
              consumed = count;
            },
            [this] { refused++; }};
  }
};

struct Fixture {
  Fixture() {
    auto [ours, its] = socket_pair(SOCK_SEQPACKET).value();
    broker = std::move(ours);
    REQUIRE(set_nonblocking(broker.get()).has_value());
    REQUIRE(set_nonblocking(its.get()).has_value());
    client.emplace(*loop, std::move(its));
    REQUIRE(client->start().has_value());
  }
  void run() {
    for (int i = 0; i < 3; i++) REQUIRE(loop->run_once(5).has_value());
  }
  void say(const std::vector<std::byte>& bytes, int fd = -1) {
    REQUIRE(send_message(broker.get(), bytes, fd < 0 ? std::span<const int>() : std::span(&fd, 1))
                .has_value());
    run();
  }
  // The next message from the client.
  std::vector<std::byte> heard() {
    Result<ReceivedMessage> message = receive_message(broker.get(), wire::kMaxMessage);
    return message ? message->bytes : std::vector<std::byte>();
  }
  template <typename T>
  T hear() {
    Result<T> message = wire::decode<T>(heard());
    REQUIRE(message.has_value());
    return *message;
  }

  std::unique_ptr<Loop> loop = Loop::create().value();
  Fd broker;
  std::optional<BrokerClient> client;
};

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

const net::FlowTarget kTarget{"allowed.test", IpAddress::v4(198, 18, 0, 1), 443};

}  // namespace

TEST_CASE("a flow is asked for, its first bytes are shown once each, and its connection arrives") {
  Fixture fixture;
  Seen seen;
  std::unique_ptr<net::FlowHandle> flow = fixture.client->open(kTarget, seen.callbacks());
  wire::Open open = fixture.hear<wire::Open>();
  CHECK(open.name == "allowed.test");
  CHECK(open.address == "198.18.0.1");
  CHECK(open.port == 443);
  CHECK(seen.connected == 0);
  fixture.say(wire::encode(wire::Connected{open.flow}));
  CHECK(seen.connected == 1);
  flow->classify(bytes_of("first"));
  std::vector<std::byte> packet = fixture.heard();
  CHECK(wire::decode<wire::First>(packet)->bytes.size() == 5);
  flow->classify(bytes_of("first"));
  CHECK(fixture.heard().empty());
  flow->classify(bytes_of("first and second"));
  packet = fixture.heard();
  std::span<const std::byte> more = wire::decode<wire::First>(packet)->bytes;
  CHECK(std::string(reinterpret_cast<const char*>(more.data()), more.size()) == " and second");
  flow->said_all();
  packet = fixture.heard();
  CHECK(wire::decode<wire::First>(packet)->bytes.empty());
  auto [stream, far] = socket_pair(SOCK_STREAM).value();
  fixture.say(wire::encode(wire::Ready{open.flow, 16}), stream.get());
  CHECK(seen.consumed == 16);
  REQUIRE(seen.stream);
  flow->ended({.from_guest = 5'000'000'000, .to_guest = 7});
  flow.reset();
  const wire::Close close = fixture.hear<wire::Close>();
  CHECK(close.flow == open.flow);
  CHECK(close.sent == 5'000'000'000);
  CHECK(close.received == 7);
}

TEST_CASE("a refusal is passed on once, before and after the connection is there") {
  Fixture fixture;
  Seen early, late;
  std::unique_ptr<net::FlowHandle> first = fixture.client->open(kTarget, early.callbacks());
  std::unique_ptr<net::FlowHandle> second = fixture.client->open(kTarget, late.callbacks());
  uint32_t one = fixture.hear<wire::Open>().flow, two = fixture.hear<wire::Open>().flow;
  CHECK(one != two);
  fixture.say(wire::encode(wire::Refused{one, wire::Reason::kFloor}));
  CHECK(early.refused == 1);
  fixture.say(wire::encode(wire::Refused{one, wire::Reason::kFloor}));
  CHECK(early.refused == 1);
  auto [stream, far] = socket_pair(SOCK_STREAM).value();
  fixture.say(wire::encode(wire::Ready{two, 0}), stream.get());
  CHECK(late.consumed == 0);
  fixture.say(wire::encode(wire::Refused{two, wire::Reason::kPolicyChanged}));
  CHECK(late.refused == 1);
  CHECK_FALSE(fixture.client->is_lost());
}

TEST_CASE("answers that cross a flow's end are nobody's") {
  Fixture fixture;
  Seen seen;
  std::unique_ptr<net::FlowHandle> flow = fixture.client->open(kTarget, seen.callbacks());
  uint32_t number = fixture.hear<wire::Open>().flow;
  flow.reset();
  auto [stream, far] = socket_pair(SOCK_STREAM).value();
  fixture.say(wire::encode(wire::Connected{number}));
  fixture.say(wire::encode(wire::Ready{number, 0}), stream.get());
  fixture.say(wire::encode(wire::Refused{number, wire::Reason::kLimit}));
  stream.reset();
  CHECK(seen.connected + seen.refused == 0);
  CHECK_FALSE(seen.consumed);
  CHECK_FALSE(fixture.client->is_lost());
  // The descriptor was closed.
  char byte = 0;
  CHECK(::recv(far.get(), &byte, 1, MSG_DONTWAIT) == 0);
}

TEST_CASE("without its broker every flow is refused, those to come too") {
  Fixture fixture;
  Seen open, later;
  std::unique_ptr<net::FlowHandle> flow = fixture.client->open(kTarget, open.callbacks());
  fixture.broker.reset();
  fixture.run();
  CHECK(fixture.client->is_lost());
  CHECK(open.refused == 1);
  std::unique_ptr<net::FlowHandle> other = fixture.client->open(kTarget, later.callbacks());
  CHECK(later.refused == 0);  // never from inside the call
  fixture.run();
  CHECK(later.refused == 1);
  // A flow may outlive the client.
  fixture.client.reset();
  flow->classify(bytes_of("x"));
  flow.reset();
  other.reset();
}

TEST_CASE("a broker that breaks the protocol is one that is lost") {
  for (int breach = 0; breach < 5; breach++) {
    CAPTURE(breach);
    Fixture fixture;
    Seen seen;
    std::unique_ptr<net::FlowHandle> flow = fixture.client->open(kTarget, seen.callbacks());
    uint32_t number = fixture.hear<wire::Open>().flow;
    auto [stream, far] = socket_pair(SOCK_STREAM).value();
    switch (breach) {
      case 0:  // more bytes than it was shown
        fixture.say(wire::encode(wire::Ready{number, 1}), stream.get());
        break;
      case 1:  // no connection
        fixture.say(wire::encode(wire::Ready{number, 0}));
        break;
      case 2:  // one too many
        fixture.say(wire::encode(wire::Connected{number}), stream.get());
        break;
      case 3:
        fixture.say(wire::encode(wire::Close{number, 0, 0}));
        break;
      case 4:
        fixture.say({std::byte{0}});
        break;
    }
    fixture.run();
    CHECK(fixture.client->is_lost());
    CHECK(seen.refused == 1);
    CHECK_FALSE(seen.consumed);
  }
}

TEST_CASE("a flow may be dropped by what it is told") {
  Fixture fixture;
  std::unique_ptr<net::FlowHandle> flow;
  int calls = 0;
  flow = fixture.client->open(kTarget, {[&] { calls++; }, [&](Fd, size_t) { calls++; },
                                        [&] {
                                          calls++;
                                          flow.reset();
                                        }});
  uint32_t number = fixture.hear<wire::Open>().flow;
  fixture.say(wire::encode(wire::Refused{number, wire::Reason::kPolicy}));
  CHECK(calls == 1);
  CHECK(flow == nullptr);
}
