// Connections through the backend: who may have one, how it gets its stream, and how it ends.
#include <doctest/doctest.h>

#include "net/backend.h"
#include "net/dns_stream.h"
#include "tests/net/backend_bench.h"

namespace hutch::net {
namespace {

using testing::BackendBench;
using testing::Bytes;
using testing::FakeOpener;
using testing::far_is_at_end;
using testing::far_reads;
using testing::FrameMaker;
using testing::GuestTcp;
using testing::read_at;

constexpr IpAddress kNamed = IpAddress::v4(198, 18, 0, 7);

void far_writes(const Fd& far, std::string_view text) {
  REQUIRE(::send(far.get(), text.data(), text.size(), MSG_DONTWAIT | MSG_NOSIGNAL) ==
          static_cast<ssize_t>(text.size()));
}

// --- Who may -----------------------------------------------------------------------------------

TEST_CASE("B14: a literal that is listed, one that is not, another port") {
  BackendBench bench;
  GuestTcp good{bench};
  good.send(tcp::kSyn);
  REQUIRE(bench.opener.asked.size() == 1);
  CHECK(bench.opener.asked[0]->target.name.empty());
  CHECK(bench.opener.asked[0]->target.address == IpAddress::v4(93, 184, 216, 34));
  CHECK(bench.opener.asked[0]->target.port == 443);
  CHECK(!good.got_reset);
  GuestTcp other_port{bench};
  other_port.maker.far_port = 80;
  other_port.send(tcp::kSyn);
  CHECK(other_port.got_reset);
  GuestTcp other_host{bench};
  other_host.maker.destination = IpAddress::v4(93, 184, 216, 35);
  other_host.send(tcp::kSyn);
  CHECK(other_host.got_reset);
  CHECK(bench.opener.asked.size() == 1);
  CHECK(bench.dropped(Drop::kTcpNoName) == 2);
}

TEST_CASE("a name's address goes by its name, and is held as long as the flow lives") {
  BackendBench bench;
  bench.names.names[kNamed] = "allowed.test";
  GuestTcp guest{bench};
  guest.maker.destination = kNamed;
  guest.send(tcp::kSyn);
  REQUIRE(bench.opener.asked.size() == 1);
  CHECK(bench.opener.asked[0]->target.name == "allowed.test");
  CHECK(bench.literals.asked == 0);
  CHECK(bench.names.held[kNamed] == 1);
  bench.opener.asked[0]->callbacks.refused();
  CHECK(bench.names.held[kNamed] == 0);
}

TEST_CASE("B11: an address that was never handed out is reset") {
  BackendBench bench;
  GuestTcp guest{bench};
  guest.maker.destination = kNamed;
  guest.send(tcp::kSyn);
  CHECK(guest.got_reset);
  CHECK(bench.opener.asked.empty());
}

TEST_CASE("the gateway itself has no service but DNS, whatever the policy says") {
  BackendBench bench;
  bench.literals.allow_all = true;
  GuestTcp guest{bench};
  guest.maker.destination = kGatewayAddress;
  guest.send(tcp::kSyn);
  CHECK(guest.got_reset);
  CHECK(bench.opener.asked.empty());
}

TEST_CASE("B03: what the policy does not name is reset on every port") {
  BackendBench bench;
  for (uint16_t port : std::initializer_list<uint16_t>{1, 22, 80, 784, 853, 5353, 5355, 65535}) {
    GuestTcp guest{bench};
    guest.maker.far_port = port;
    guest.send(tcp::kSyn);
    CHECK(guest.got_reset);
  }
  CHECK(bench.opener.asked.empty());
}

// --- How it opens ------------------------------------------------------------------------------

TEST_CASE("the far side refuses: reset") {
  BackendBench bench;
  GuestTcp guest{bench};
  guest.send(tcp::kSyn);
  CHECK(guest.segments == 0);
  CHECK(bench.backend->tcp().opening_count() == 1);
  bench.opener.asked[0]->callbacks.refused();
  guest.take();
  CHECK(guest.got_reset);
  CHECK(bench.opener.asked[0]->handle == nullptr);
  CHECK(bench.backend->tcp().flow_count() == 0);
  CHECK(bench.backend->tcp().opening_count() == 0);
}

TEST_CASE("who opened a flow is told once what it carried, however it ended") {
  BackendBench bench;
  {
    GuestTcp guest{bench};
    FakeOpener::Asked& asked = guest.connect();
    guest.send(tcp::kAck | tcp::kPsh, "12345");
    guest.send(tcp::kAck | tcp::kPsh, std::string(1400, 'x'));
    far_writes(asked.far, std::string(3000, 'y'));
    asked.far.reset();
    bench.run();
    guest.take();
    CHECK(guest.received.size() == 3000);
    guest.send(tcp::kAck | tcp::kFin);
    bench.run();
    CHECK(asked.handle == nullptr);
    REQUIRE(asked.ended.size() == 1);
    CHECK(asked.ended[0] == FlowTotals{1405, 3000});
  }
  {
    GuestTcp guest{bench};
    guest.maker.guest_port++;
    guest.send(tcp::kSyn);
    FakeOpener::Asked& asked = *bench.opener.asked.back();
    asked.callbacks.connected();
    guest.take();
    guest.acknowledge();
    guest.send(tcp::kAck | tcp::kPsh, "GET /");
    asked.join(3);  // those three somebody else has passed on
    guest.send(tcp::kRst);
    CHECK(asked.handle == nullptr);
    REQUIRE(asked.ended.size() == 1);
    CHECK(asked.ended[0] == FlowTotals{5, 0});
  }
  {
    GuestTcp guest{bench};
    guest.maker.guest_port += 2;
    guest.send(tcp::kSyn);
    FakeOpener::Asked& asked = *bench.opener.asked.back();
    asked.callbacks.refused();
    CHECK(asked.handle == nullptr);
    REQUIRE(asked.ended.size() == 1);
    CHECK(asked.ended[0] == FlowTotals{0, 0});
  }
  GuestTcp guest{bench};
  guest.maker.guest_port += 3;
  FakeOpener::Asked& asked = guest.connect();
  guest.send(tcp::kAck | tcp::kPsh, "left");
  bench.backend.reset();
  REQUIRE(asked.ended.size() == 1);
  CHECK(asked.ended[0] == FlowTotals{4, 0});
}

TEST_CASE("the first bytes are shown until somebody knows what they are") {
  BackendBench bench;
  GuestTcp guest{bench};
  guest.send(tcp::kSyn);
  FakeOpener::Asked& asked = *bench.opener.asked[0];
  asked.callbacks.connected();
  guest.take();
  guest.acknowledge();
  CHECK(asked.times == 0);
  guest.send(tcp::kAck | tcp::kPsh, "GET ");
  CHECK(asked.seen == "GET ");
  guest.acknowledge();
  CHECK(asked.times == 1);
  guest.send(tcp::kAck | tcp::kPsh, "/ HTTP");
  CHECK(asked.seen == "GET / HTTP");
  asked.join(4);
  CHECK(far_reads(asked.far) == "/ HTTP");
  guest.send(tcp::kAck | tcp::kPsh, "/1.1");
  CHECK(far_reads(asked.far) == "/1.1");
  CHECK(asked.times == 2);
  far_writes(asked.far, "200");
  bench.run();
  guest.take();
  CHECK(guest.received == "200");
}

TEST_CASE("that the guest has said all is told once, and only to who still has to decide") {
  BackendBench bench;
  for (bool is_joined : {false, true}) {
    CAPTURE(is_joined);
    GuestTcp guest{bench};
    guest.maker.guest_port = static_cast<uint16_t>(guest.maker.guest_port + is_joined);
    guest.send(tcp::kSyn);
    FakeOpener::Asked& asked = *bench.opener.asked.back();
    asked.callbacks.connected();
    guest.take();
    guest.acknowledge();
    guest.send(tcp::kAck | tcp::kPsh, "GET ");
    CHECK(asked.ends == 0);
    if (is_joined) asked.join(4);
    guest.send(tcp::kAck | tcp::kFin);
    guest.acknowledge();
    CHECK(asked.ends == (is_joined ? 0 : 1));
    if (is_joined) continue;
    asked.callbacks.refused();
    guest.take();
    CHECK(guest.got_reset);
  }
}

TEST_CASE("the answer may come from inside the question") {
  BackendBench bench;
  GuestTcp guest{bench};
  guest.send(tcp::kSyn);
  FakeOpener::Asked& asked = *bench.opener.asked[0];
  asked.callbacks.connected();
  asked.on_bytes = [&] {
    if (asked.seen == "no") asked.callbacks.refused();
    if (asked.seen == "yes") asked.join(0);
  };
  guest.take();
  guest.acknowledge();
  guest.send(tcp::kAck, "yes");
  guest.send(tcp::kAck, "!");
  CHECK(far_reads(asked.far) == "yes!");
  GuestTcp second{bench};
  second.maker.guest_port++;
  second.send(tcp::kSyn);
  FakeOpener::Asked& refusing = *bench.opener.asked[1];
  refusing.callbacks.connected();
  refusing.on_bytes = [&] { refusing.callbacks.refused(); };
  second.take();
  second.acknowledge();
  second.send(tcp::kAck, "no");
  CHECK(second.got_reset);
  CHECK(refusing.handle == nullptr);
}

TEST_CASE("a flow that is ready at once, for far sides that speak first") {
  BackendBench bench;
  GuestTcp guest{bench};
  guest.send(tcp::kSyn);
  FakeOpener::Asked& asked = *bench.opener.asked[0];
  asked.join();
  far_writes(asked.far, "220 hello");
  bench.run();
  guest.take();
  CHECK(guest.segments == 1);  // the SYN-ACK; bytes follow the guest's answer
  guest.acknowledge();
  CHECK(guest.received == "220 hello");
}

TEST_CASE("an opener that says that more is gone than there was resets the flow") {
  BackendBench bench;
  GuestTcp guest{bench};
  guest.send(tcp::kSyn);
  bench.opener.asked[0]->join(1);
  guest.take();
  CHECK(guest.got_reset);
}

TEST_CASE("a guest that leaves before the answer: the opener is told, and later calls do nothing") {
  BackendBench bench;
  GuestTcp guest{bench};
  guest.send(tcp::kSyn);
  FakeOpener::Asked& asked = *bench.opener.asked[0];
  guest.send(tcp::kRst);
  CHECK(asked.handle == nullptr);
  CHECK(bench.backend->tcp().flow_count() == 0);
  asked.callbacks.connected();
  asked.callbacks.refused();
  asked.join();
  CHECK(bench.backend->tcp().flow_count() == 0);
}

// --- Bytes and ends ----------------------------------------------------------------------------

TEST_CASE("bytes both ways, far more than fits anywhere") {
  BackendBench bench;
  bench.device.able = {.checksum = true, .tcp4 = true};
  GuestTcp guest{bench};
  FakeOpener::Asked& asked = guest.connect();
  const std::string block = [] {
    std::string text(60'000, '\0');
    for (size_t i = 0; i < text.size(); i++) text[i] = static_cast<char>(i % 251);
    return text;
  }();
  const FrameOffload offload{.needs_checksum = true,
                             .checksum_start = 34,
                             .checksum_offset = 16,
                             .segmentation = FrameOffload::Segmentation::kTcp4,
                             .header_size = 54,
                             .segment_size = 1460};
  std::string up, written;
  for (int i = 0; i < 40; i++) {
    guest.send(tcp::kAck, block, offload);
    up += far_reads(asked.far);
    bench.run();
    up += far_reads(asked.far);
  }
  bench.run();
  up += far_reads(asked.far);
  REQUIRE(up.size() == 40 * block.size());
  for (size_t i = 0; i < 40; i++) CHECK(up.compare(i * block.size(), block.size(), block) == 0);
  for (int i = 0; i < 40; i++) {
    far_writes(asked.far, block);
    written += block;
    bench.run();
    guest.take();
    guest.acknowledge();
  }
  for (int i = 0; i < 100 && guest.received.size() < written.size(); i++) {
    guest.acknowledge();
    bench.run();
  }
  CHECK(guest.received == written);
  CHECK(bench.backend->counters().bytes_to_streams == up.size());
  CHECK(bench.backend->counters().bytes_to_guest == written.size());
}

TEST_CASE("a far side that does not read holds the guest back, and goes on when it reads") {
  BackendBench bench;
  GuestTcp guest{bench};
  FakeOpener::Asked& asked = guest.connect();
  const std::string block(1400, 'x');
  size_t sent = 0;
  for (int i = 0; i < 1000; i++) {
    guest.send(tcp::kAck, block);
    sent += block.size();
  }
  CHECK(bench.backend->tcp().memory() <= ByteRing::kMost);
  std::string got;
  for (int i = 0; i < 10; i++) {
    got += far_reads(asked.far);
    bench.run();
  }
  // The rest was dropped: the guest's window said so.
  CHECK(got.size() < sent);
  CHECK(got.size() >= ByteRing::kMost);
  CHECK(got == std::string(got.size(), 'x'));
}

TEST_CASE("the guest ends first, then the far side") {
  BackendBench bench;
  GuestTcp guest{bench};
  FakeOpener::Asked& asked = guest.connect();
  guest.send(tcp::kAck | tcp::kFin, "bye");
  CHECK(far_reads(asked.far) == "bye");
  CHECK(far_is_at_end(asked.far));
  far_writes(asked.far, "late answer");
  bench.run();
  guest.take();
  CHECK(guest.received == "late answer");
  CHECK(!guest.got_fin);
  guest.acknowledge();
  asked.far.reset();
  bench.run();
  guest.take();
  CHECK(guest.got_fin);
  CHECK(asked.handle == nullptr);
  guest.acknowledge();
  CHECK(bench.backend->tcp().flow_count() == 0);
}

TEST_CASE("the far side ends first, then the guest") {
  BackendBench bench;
  GuestTcp guest{bench};
  FakeOpener::Asked& asked = guest.connect();
  far_writes(asked.far, "all I have");
  ::shutdown(asked.far.get(), SHUT_WR);
  bench.run();
  guest.take();
  CHECK(guest.received == "all I have");
  CHECK(guest.got_fin);
  guest.send(tcp::kAck, "still here");
  CHECK(far_reads(asked.far) == "still here");
  CHECK(!far_is_at_end(asked.far));
  guest.send(tcp::kAck | tcp::kFin);
  CHECK(far_is_at_end(asked.far));
  // The port may be used again at once.
  guest.send(tcp::kSyn);
  CHECK(bench.opener.asked.size() == 2);
}

TEST_CASE("the guest resets: the far side is closed") {
  BackendBench bench;
  GuestTcp guest{bench};
  FakeOpener::Asked& asked = guest.connect();
  guest.send(tcp::kRst | tcp::kAck);
  CHECK(far_is_at_end(asked.far));
  CHECK(asked.handle == nullptr);
  CHECK(bench.backend->tcp().flow_count() == 0);
}

TEST_CASE("the far side breaks, with an answer under way: answer, then reset") {
  BackendBench bench;
  GuestTcp guest{bench};
  FakeOpener::Asked& asked = guest.connect();
  far_writes(asked.far, "413 too large");
  asked.far.reset();
  guest.send(tcp::kAck, std::string(1000, 'x'));
  bench.run();
  guest.take();
  CHECK(guest.received == "413 too large");
  CHECK(guest.got_reset);
  CHECK(bench.backend->tcp().flow_count() == 0);
}

TEST_CASE("segments of no connection are reset; resets are not answered") {
  BackendBench bench;
  FrameMaker maker;
  bench.frame(maker.tcp({.sequence = 7, .acknowledgement = 99, .flags = tcp::kAck}, "data"));
  auto reset = read_at<wire::Tcp>(bench.take().bytes, 34);
  CHECK(reset.flags == tcp::kRst);
  CHECK(reset.sequence == 99u);
  bench.frame(maker.tcp({.acknowledgement = 5, .flags = tcp::kSyn | tcp::kAck}, ""));
  CHECK(read_at<wire::Tcp>(bench.take().bytes, 34).sequence == 5u);
  bench.frame(maker.tcp({.flags = tcp::kRst}, ""));
  bench.frame(maker.tcp({.flags = tcp::kRst | tcp::kAck}, ""));
  CHECK(bench.device.frames.empty());
  CHECK(bench.dropped(Drop::kTcpNoFlow) == 2);
}

TEST_CASE("B28: flags that mean nothing") {
  for (uint8_t flags : std::initializer_list<uint8_t>{0, tcp::kFin, tcp::kPsh | tcp::kUrg,
                                                      tcp::kSyn | tcp::kFin, tcp::kSyn | tcp::kRst,
                                                      tcp::kFin | tcp::kRst | tcp::kAck, 0xff}) {
    BackendBench bench;
    FrameMaker maker;
    bench.frame(maker.tcp({.flags = flags}, "x"));
    CHECK(bench.dropped(Drop::kTcpFlags) == 1);
    CHECK(bench.device.frames.empty());
  }
}

TEST_CASE("what the guest is sent is right without offloads, and open with them") {
  for (bool able : {false, true}) {
    BackendBench bench;
    bench.device.able.checksum = able;
    GuestTcp guest{bench};
    guest.send(tcp::kSyn);
    bench.opener.asked[0]->callbacks.connected();
    const auto frame = bench.take();
    CHECK(frame.offload.needs_checksum == able);
    CHECK(frame.offload.checksum_start == (able ? 34 : 0));
    CHECK(Checksum().add(std::span(frame.bytes).subspan(14, 20)).value() == 0);
    const uint16_t pseudo =
        pseudo_header_sum(guest.maker.destination, kGuestAddress, 6, frame.bytes.size() - 34);
    if (able) {
      CHECK(read_at<uint16_t>(frame.bytes, 34 + 16) == pseudo);
    } else {
      CHECK(Checksum().add_object(pseudo).add(std::span(frame.bytes).subspan(34)).value() == 0);
    }
  }
}

TEST_CASE("a guest that takes large frames gets few, with what is to be cut") {
  BackendBench bench;
  bench.device.able = {.checksum = true, .tcp4 = true};
  GuestTcp guest{bench};
  FakeOpener::Asked& asked = guest.connect();
  far_writes(asked.far, std::string(50'000, 'x'));
  bench.run();
  uint64_t bytes = 0;
  for (const auto& frame : bench.device.frames) {
    bytes += frame.bytes.size() - 54;
    if (frame.bytes.size() <= 1514) continue;
    CHECK(frame.offload.segmentation == FrameOffload::Segmentation::kTcp4);
    CHECK(frame.offload.segment_size == 1460);
    CHECK(frame.offload.header_size == 54);
    CHECK(frame.offload.needs_checksum);
  }
  CHECK(bytes == 50'000);
  CHECK(bench.device.frames.size() <= 3);
}

TEST_CASE("a batch of frames costs a flow one acknowledgement and one write") {
  BackendBench bench;
  GuestTcp guest{bench};
  FakeOpener::Asked& asked = guest.connect();
  const size_t flushes = bench.device.flushes;
  for (int i = 0; i < 20; i++) {
    const Bytes frame = guest.maker.tcp({.sequence = guest.next,
                                         .acknowledgement = guest.expected,
                                         .flags = tcp::kAck,
                                         .window = 1000},
                                        std::string(1000, 'x'));
    guest.next += 1000;
    bench.backend->on_frame(frame, {});
  }
  CHECK(bench.device.frames.empty());
  bench.backend->on_batch_end();
  CHECK(bench.device.frames.size() == 1);
  CHECK(bench.device.flushes == flushes + 1);
  CHECK(far_reads(asked.far).size() == 20'000);
}

// --- A guest without room ----------------------------------------------------------------------

TEST_CASE("V20: flows wait for room, the far side still gets its bytes, and all goes on") {
  BackendBench bench;
  GuestTcp first{bench};
  FakeOpener::Asked& one = first.connect();
  GuestTcp second{bench};
  second.maker.guest_port++;
  FakeOpener::Asked& two = second.connect();
  bench.device.room = 0;
  far_writes(one.far, "one");
  far_writes(two.far, "two");
  bench.run();
  first.send(tcp::kAck, "up");
  CHECK(far_reads(one.far) == "up");
  CHECK(bench.device.frames.empty());
  bench.device.room = 1;
  bench.backend->on_room();
  CHECK(bench.device.frames.size() == 1);
  bench.device.room = 100;
  bench.backend->on_room();
  first.take();
  second.take();
  CHECK(first.received == "one");
  CHECK(second.received == "two");
  bench.backend->on_room();
  CHECK(bench.device.frames.empty());
}

TEST_CASE("B29: a guest that never makes room, and opens flows all the time, costs nothing more") {
  BackendBench bench({.max_flows = 50, .syn_burst = 1'000'000, .syns_per_second = 1'000'000});
  bench.device.room = 0;
  for (int i = 0; i < 20'000; i++) {
    GuestTcp guest{bench};
    guest.maker.guest_port = static_cast<uint16_t>(1000 + i % 60'000);
    guest.send(tcp::kSyn);
    if (!bench.opener.asked.empty()) bench.opener.asked.back()->callbacks.refused();
    bench.opener.asked.clear();
    CHECK(bench.backend->tcp().flow_count() <= 50);
  }
}

// --- Limits ------------------------------------------------------------------------------------

TEST_CASE("B29: flows have their number, and ports of those that are over are free") {
  BackendBench bench({.max_flows = 10, .max_opening = 10});
  bench.literals.allow_all = true;
  std::vector<GuestTcp> guests;
  for (uint16_t i = 0; i < 12; i++) {
    guests.push_back(GuestTcp{bench});
    guests.back().maker.guest_port = static_cast<uint16_t>(1000 + i);
    guests.back().send(tcp::kSyn);
  }
  CHECK(bench.backend->tcp().flow_count() == 10);
  CHECK(bench.opener.asked.size() == 10);
  CHECK(bench.dropped(Drop::kTcpTableFull) == 2);
  // One ends in order: its memory of that gives way.
  FakeOpener::Asked& asked = *bench.opener.asked[0];
  asked.join();
  guests[0].take();
  guests[0].acknowledge();
  asked.far.reset();
  bench.run();
  guests[0].take();
  guests[0].send(tcp::kAck | tcp::kFin);
  CHECK(bench.backend->tcp().flow_count() == 10);
  guests[11].next--;
  guests[11].send(tcp::kSyn);
  CHECK(bench.opener.asked.size() == 11);
  CHECK(bench.backend->tcp().flow_count() == 10);
}

TEST_CASE("B29: of flows that wait for their far side there are fewer") {
  BackendBench bench({.max_opening = 5});
  for (uint16_t i = 0; i < 20; i++) {
    GuestTcp guest{bench};
    guest.maker.guest_port = static_cast<uint16_t>(1000 + i);
    guest.send(tcp::kSyn);
  }
  CHECK(bench.opener.asked.size() == 5);
  bench.opener.asked[0]->callbacks.connected();
  GuestTcp guest{bench};
  guest.send(tcp::kSyn);
  CHECK(bench.opener.asked.size() == 6);
}

TEST_CASE("B29: SYNs have their rate") {
  BackendBench bench({.syn_burst = 10, .syns_per_second = 5});
  auto flood = [&] {
    for (uint16_t i = 0; i < 100; i++) {
      GuestTcp guest{bench};
      guest.maker.guest_port = static_cast<uint16_t>(1000 + i);
      guest.send(tcp::kSyn);
      if (!bench.opener.asked.empty()) bench.opener.asked.back()->callbacks.refused();
    }
  };
  flood();
  CHECK(bench.opener.asked.size() == 10);
  CHECK(bench.dropped(Drop::kTcpSynRate) == 90);
  bench.now += 1'000'000'000;
  flood();
  CHECK(bench.opener.asked.size() == 15);
}

TEST_CASE("B29: memory of all flows has its bound") {
  BackendBench bench({.memory = 1 << 20});
  bench.literals.allow_all = true;
  std::vector<FakeOpener::Asked*> open;
  for (uint16_t i = 0; i < 100; i++) {
    GuestTcp guest{bench};
    guest.maker.guest_port = static_cast<uint16_t>(1000 + i);
    open.push_back(&guest.connect());
    // The far side sends, the guest takes nothing, and the other way round.
    const std::string much(200'000, 'x');
    (void)::send(open.back()->far.get(), much.data(), much.size(), MSG_DONTWAIT);
    for (int k = 0; k < 30; k++) guest.send(tcp::kAck, much.substr(0, 1400));
    bench.run();
    CHECK(bench.backend->tcp().memory() <= 1 << 20);
  }
  CHECK(bench.backend->tcp().memory() > 1 << 19);
}

// --- Cuts --------------------------------------------------------------------------------------

TEST_CASE("B58: flows that a new policy does not allow are cut, others live") {
  BackendBench bench;
  bench.names.names[kNamed] = "evil.test";
  GuestTcp evil{bench};
  evil.maker.destination = kNamed;
  FakeOpener::Asked& cut = evil.connect();
  GuestTcp good{bench};
  FakeOpener::Asked& kept = good.connect();
  GuestTcp opening{bench};
  opening.maker.destination = kNamed;
  opening.maker.guest_port++;
  opening.send(tcp::kSyn);
  CHECK(bench.backend->close_where(
            [](const FlowTarget& target) { return target.name == "evil.test"; }) == 2);
  evil.take();
  opening.take();
  good.take();
  CHECK(evil.got_reset);
  CHECK(opening.got_reset);
  CHECK(!good.got_reset);
  CHECK(far_is_at_end(cut.far));
  CHECK(cut.handle == nullptr);
  CHECK(bench.opener.asked[2]->handle == nullptr);
  good.send(tcp::kAck, "lives");
  CHECK(far_reads(kept.far) == "lives");
  CHECK(bench.names.held[kNamed] == 0);
}

TEST_CASE("the opener may cut a flow at any time") {
  BackendBench bench;
  GuestTcp guest{bench};
  FakeOpener::Asked& asked = guest.connect();
  asked.callbacks.refused();
  guest.take();
  CHECK(guest.got_reset);
  CHECK(far_is_at_end(asked.far));
}

TEST_CASE("a restored guest hears at once that its connections are gone") {
  BackendBench bench;
  GuestTcp open{bench};
  FakeOpener::Asked& asked = open.connect();
  open.send(tcp::kAck, "question");
  REQUIRE(::write(asked.far.get(), "answer", 6) == 6);
  bench.run();
  open.take();
  REQUIRE(open.received == "answer");
  GuestTcp opening{bench};
  opening.maker.guest_port++;
  opening.send(tcp::kSyn);
  std::vector<FlowRemains> remains = bench.backend->remains();
  CHECK(remains.size() == 2);

  // As a backend that has never heard of them, first without room.
  BackendBench restored;
  restored.device.room = 0;
  REQUIRE(restored.backend->reset_remains(remains));
  GuestTcp same{restored}, other{restored};
  same.maker = open.maker;
  other.maker = opening.maker;
  same.take();
  CHECK(!same.got_reset);
  restored.device.room = 1;
  restored.backend->on_room();
  restored.device.room = 5;
  restored.backend->on_room();
  same.take();
  other.take();
  CHECK(same.got_reset);
  CHECK(same.reset_sequence == open.expected);
  CHECK(same.reset_acknowledgement == open.next);
  CHECK(other.got_reset);
  CHECK(other.reset_acknowledgement == opening.next);
  CHECK(restored.device.room == 4);
  CHECK(restored.backend->tcp().flow_count() == 0);
  CHECK(restored.backend->remains().empty());
}

TEST_CASE("flows that are over leave no remains, and more than may be are refused") {
  BackendBench bench;
  GuestTcp guest{bench};
  guest.connect();
  bench.backend->reset_all();
  CHECK(bench.backend->remains().empty());
  CHECK(!bench.backend->reset_remains(std::vector<FlowRemains>(1025)));
}

TEST_CASE("after a reset of the device all flows are reset, also those that only the guest knows") {
  BackendBench bench;
  GuestTcp first{bench};
  FakeOpener::Asked& one = first.connect();
  GuestTcp second{bench};
  second.maker.guest_port++;
  second.send(tcp::kSyn);
  bench.backend->reset_all();
  first.take();
  second.take();
  CHECK(first.got_reset);
  CHECK(second.got_reset);
  CHECK(far_is_at_end(one.far));
  CHECK(bench.backend->tcp().flow_count() == 0);
  CHECK(bench.backend->tcp().memory() == 0);
  GuestTcp unknown{bench};
  unknown.maker.guest_port = 9;
  unknown.send(tcp::kAck, "from before");
  CHECK(unknown.got_reset);
}

TEST_CASE("a backend that goes away leaves nobody waiting") {
  BackendBench bench;
  bench.names.names[kNamed] = "allowed.test";
  GuestTcp guest{bench};
  guest.maker.destination = kNamed;
  FakeOpener::Asked& asked = guest.connect();
  bench.backend.reset();
  CHECK(far_is_at_end(asked.far));
  CHECK(asked.handle == nullptr);
  CHECK(bench.names.held[kNamed] == 0);
}

// --- Time --------------------------------------------------------------------------------------

TEST_CASE("timers of flows run on the loop") {
  BackendBench bench;
  const uint64_t start = monotonic_ns();
  GuestTcp guest{bench};
  guest.send(tcp::kSyn);
  bench.opener.asked[0]->callbacks.connected();
  guest.take();
  CHECK(guest.segments == 1);
  // The test's clock goes on faster than the loop's.
  CHECK(bench.backend->tcp().next_wake() == bench.now + 500'000'000);
  while (guest.segments < 2 && monotonic_ns() - start < 20'000'000'000) {
    bench.now += 600'000'000;
    (void)bench.loop->run_once(600);
    guest.take();
  }
  CHECK(guest.segments == 2);
}

// --- DNS over TCP ------------------------------------------------------------------------------

std::string framed(std::string_view query) {
  std::string text;
  text += static_cast<char>(query.size() >> 8);
  text += static_cast<char>(query.size() & 0xff);
  text += query;
  return text;
}

TEST_CASE("B02: DNS over TCP is answered here, to the gateway and to anybody else") {
  for (const IpAddress& server : {kGatewayAddress, IpAddress::v4(8, 8, 8, 8)}) {
    BackendBench bench;
    bench.literals.allow_all = true;
    GuestTcp guest{bench};
    guest.maker.destination = server;
    guest.maker.far_port = 53;
    guest.send(tcp::kSyn);
    guest.acknowledge();
    guest.send(tcp::kAck, framed("first") + framed("no") + framed("second").substr(0, 3));
    CHECK(guest.received == framed("re: first"));
    guest.send(tcp::kAck, framed("second").substr(3));
    CHECK(guest.received == framed("re: first") + framed("re: second"));
    guest.acknowledge();
    guest.send(tcp::kAck | tcp::kFin);
    CHECK(guest.got_fin);
    guest.acknowledge();
    CHECK(bench.backend->tcp().flow_count() == 0);
    CHECK(bench.opener.asked.empty());
    CHECK(bench.dns.queries == 3);
  }
}

TEST_CASE("port 53 of a name that is allowed is a flow like others") {
  BackendBench bench;
  bench.names.names[kNamed] = "allowed.test";
  GuestTcp guest{bench};
  guest.maker.destination = kNamed;
  guest.maker.far_port = 53;
  guest.send(tcp::kSyn);
  CHECK(bench.opener.asked.size() == 1);
}

TEST_CASE("DNS over TCP: one byte at a time, lengths that are none, ends in the middle") {
  BackendBench bench;
  auto connect = [&](uint16_t port) {
    GuestTcp guest{bench};
    guest.maker.destination = kGatewayAddress;
    guest.maker.far_port = 53;
    guest.maker.guest_port = port;
    guest.send(tcp::kSyn);
    guest.acknowledge();
    return guest;
  };
  GuestTcp slow = connect(1);
  for (char byte : framed("slow")) slow.send(tcp::kAck, std::string(1, byte));
  CHECK(slow.received == framed("re: slow"));
  GuestTcp zero = connect(2);
  zero.send(tcp::kAck, std::string(2, '\0'));
  CHECK(zero.got_reset);
  GuestTcp huge = connect(3);
  huge.send(tcp::kAck, framed(std::string(DnsStream::kMaxQuery + 1, 'x')).substr(0, 1000));
  CHECK(huge.got_reset);
  GuestTcp half = connect(4);
  half.send(tcp::kAck | tcp::kFin, "\x01");
  CHECK(half.got_fin);
  CHECK(bench.backend->close_where([](const FlowTarget&) { return true; }) == 0);
}

TEST_CASE("B29: a guest that asks DNS over TCP and never reads the answers") {
  BackendBench bench;
  GuestTcp guest{bench};
  guest.maker.destination = kGatewayAddress;
  guest.maker.far_port = 53;
  guest.window = 0;
  guest.send(tcp::kSyn);
  guest.acknowledge();
  const std::string query = framed(std::string(1000, 'q'));
  for (int i = 0; i < 1000; i++) guest.send(tcp::kAck, query);
  CHECK(bench.backend->tcp().memory() <= 2 * ByteRing::kMost);
  CHECK(bench.dns.queries < 400);
}

}  // namespace
}  // namespace hutch::net
