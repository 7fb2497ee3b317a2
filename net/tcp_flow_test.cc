// The rules of the terminator, each as a script; see tests/net/tcp_script.h.
#include "net/tcp_flow.h"

#include <doctest/doctest.h>

#include "tests/net/tcp_script.h"

namespace hutch::net {
namespace {

using namespace std::chrono_literals;
using testing::TcpScript;
using State = TcpFlow::State;
using Ending = TcpFlow::Ending;

// --- Opening -----------------------------------------------------------------------------------

TEST_CASE("a SYN is answered when the far side is there, and not before") {
  TcpScript script;
  script.syn();
  script.flush();
  script.quiet();
  script.guest("S 0:0(0) win 65535 <mss 1460,wscale 7>");  // the guest tries again
  script.quiet();
  script.connected();
  script.expect("S. 0:0(0) ack 1 win 65535 <mss 1460,wscale 3>");
  script.guest(". 1:1(0) ack 1 win 512");
  script.quiet();
  CHECK(script.flow->is_open());
}

TEST_CASE("options are offered only to a guest that has them; SACK and timestamps never") {
  TcpScript script;
  script.syn("S 0:0(0) win 1000");
  script.connected();
  script.expect("S. 0:0(0) ack 1 win 65535 <mss 1460>");
}

TEST_CASE("a far side that refuses is a reset that a guest without a connection accepts") {
  TcpScript script;
  script.syn();
  script.flow->abort(script.now);
  script.flush();
  script.expect("R. 0:0(0) ack 1");
  CHECK(script.flow->is_closed());
  CHECK(script.flow->was_cut());
}

TEST_CASE("a guest that forgot its SYN and sends another one gets the answer to that") {
  TcpScript script;
  script.syn();
  script.guest("S 777:777(0) win 65535");
  script.connected();
  script.expect("S. 0:0(0) ack 778");
}

TEST_CASE("a guest that takes back its SYN, in the right place only") {
  TcpScript script;
  script.syn();
  script.guest("R 2:2(0)");
  CHECK(!script.flow->is_closed());
  script.guest("R 1:1(0)");
  CHECK(script.flow->is_closed());
  script.quiet();
}

TEST_CASE("B28: bytes in a SYN are not taken") {
  TcpScript script;
  script.syn("S 0:20(20) win 65535 <mss 1460>");
  script.guest("S 0:20(20) win 65535 <mss 1460>");
  script.connected();
  script.expect("S. 0:0(0) ack 1");
  CHECK(script.flow->incoming_size() == 0);
  script.guest(". 1:1(0) ack 1");
  CHECK(script.flow->incoming_size() == 0);
}

TEST_CASE("B28: nothing counts before the SYN is answered") {
  TcpScript script;
  script.syn();
  script.guest("P. 1:11(10) ack 1");
  script.guest("F. 11:11(0) ack 1");
  script.quiet();
  CHECK(script.flow->state() == State::kOpening);
  script.connected();
  script.expect("S. 0:0(0) ack 1");
  CHECK(script.flow->incoming_size() == 0);
}

TEST_CASE("B28: an acknowledgement of what was not sent does not establish") {
  TcpScript script;
  script.syn();
  script.connected();
  script.expect("S. 0:0(0) ack 1");
  script.guest("P. 1:11(10) ack 2");
  script.expect(". 1:1(0) ack 1");
  script.now += 10'000'000;
  script.guest("P. 1:11(10) ack 0");
  script.expect(". 1:1(0) ack 1");
  CHECK(script.flow->state() == State::kSynReceived);
  CHECK(script.flow->incoming_size() == 0);
}

TEST_CASE("B28: simultaneous open does not exist") {
  TcpScript script;
  script.syn();
  script.connected();
  script.expect("S. 0:0(0) ack 1");
  script.guest("S. 0:0(0) ack 1");
  script.expect(". 1:1(0) ack 1");
  CHECK(script.flow->state() == State::kSynReceived);
}

TEST_CASE("a lost SYN-ACK is sent again, on demand and by itself; after 10 s that is the end") {
  TcpScript script;
  script.syn();
  script.connected();
  script.expect("S. 0:0(0) ack 1");
  script.guest("S 0:0(0) win 65535 <mss 1460,wscale 7>");
  script.expect("S. 0:0(0) ack 1");
  script.pass(500ms);
  script.expect("S. 0:0(0) ack 1");
  script.pass(1s);
  script.expect("S. 0:0(0) ack 1");
  script.pass(6s);
  script.expect("S. 0:0(0) ack 1");
  script.expect("S. 0:0(0) ack 1");
  CHECK(script.flow->state() == State::kSynReceived);
  script.pass(2501ms);
  script.expect("R. 1:1(0) ack 1");
  CHECK(script.flow->is_closed());
}

TEST_CASE("a far side that never answers is given up after two minutes") {
  TcpScript script;
  script.syn();
  script.pass(119s);
  CHECK(script.flow->state() == State::kOpening);
  script.pass(2s);
  script.expect("R. 0:0(0) ack 1");
}

TEST_CASE("the handshake's last segment may carry bytes and the end") {
  TcpScript script;
  script.syn();
  script.connected();
  script.expect("S. 0:0(0) ack 1");
  script.guest("FP. 1:11(10) ack 1");
  script.expect(". 1:1(0) ack 12");
  CHECK(script.flow->incoming_size() == 10);
  CHECK(script.flow->guest_has_ended());
}

// --- Before it is known what the flow is -------------------------------------------------------

TEST_CASE("bytes are held in one piece, at most 65,535, until somebody takes them") {
  TcpScript script;
  script.syn();
  script.connected();
  script.expect("S. 0:0(0) ack 1 win 65535");
  script.guest(". 1:1(0) ack 1");
  uint32_t next = 1;
  while (next < 65000) {
    script.guest(fmt::format(". {}:{}(1000) ack 1", next, next + 1000));
    next += 1000;
    script.expect(fmt::format(". 1:1(0) ack {} win {}", next, (65536 - next) / 8));
  }
  script.guest(fmt::format(". {}:{}(1000) ack 1", next, next + 1000));
  script.expect(". 1:1(0) ack 65536 win 0");
  CHECK(script.flow->incoming_size() == kMaxClassified);
  CHECK(script.flow->incoming()[0].size() == kMaxClassified);
  // From then on there is room for more, and the guest hears of it.
  script.drain(kMaxClassified);
  script.flow->joined(script.now);
  script.flush();
  CHECK(script.delivered == TcpScript::pattern(0, kMaxClassified));
  script.sent.clear();
  script.guest(". 65536:66536(1000) ack 1");
  script.expect(". 1:1(0) ack 66536");
}

TEST_CASE("a guest that says nothing for a minute is not waited for") {
  TcpScript script;
  script.syn();
  script.connected();
  script.guest(". 1:1(0) ack 1");
  script.sent.clear();
  script.pass(30s);
  script.guest(". 1:2(1) ack 1");
  script.expect(". 1:1(0) ack 2");
  script.pass(31s);
  script.expect("R. 1:1(0) ack 2");
}

// --- Bytes from the guest ----------------------------------------------------------------------

TEST_CASE("bytes in order reach the far side, large ones without being held") {
  TcpScript script;
  script.establish();
  script.sink_room = 1'000'000;
  script.guest("P. 1:6(5) ack 1", "hello");
  script.expect(". 1:1(0) ack 6");
  CHECK(script.flow->incoming_size() == 5);
  script.drain();
  script.guest(". 6:60006(60000) ack 1");
  script.expect(". 1:1(0) ack 60006");
  CHECK(script.flow->incoming_size() == 0);
  CHECK(script.delivered == "hello" + TcpScript::pattern(5, 60'000));
}

TEST_CASE("what the far side does not take is held, and the window says so") {
  TcpScript script;
  script.establish();
  script.sink_room = 10'000;
  script.guest(". 1:60001(60000) ack 1");
  script.expect(fmt::format(". 1:1(0) ack 60001 win {}", (262144 - 50000) / 8));
  CHECK(script.flow->incoming_size() == 50'000);
  script.sink_room = 10'000;
  script.guest(". 60001:70001(10000) ack 1");  // behind what is held, so not past it
  CHECK(script.flow->incoming_size() == 60'000);
  script.sent.clear();
  script.drain();
  CHECK(script.delivered == TcpScript::pattern(0, 70'000));
}

TEST_CASE("B29: a far side that takes nothing closes the window; memory has its bound") {
  TcpScript script;
  script.establish();
  uint32_t next = 1;
  for (int i = 0; i < 10; i++, next += 50'000)
    script.guest(fmt::format(". {}:{}(50000) ack 1", next, next + 50'000));
  CHECK(script.flow->incoming_size() <= ByteRing::kMost);
  CHECK(script.flow->incoming_size() > ByteRing::kMost - 50'000);
  CHECK(script.flow->memory() <= 2 * ByteRing::kMost);
  script.sent.clear();
  const size_t held = script.flow->incoming_size();
  // The guest asks; nothing is taken beyond the window.
  script.guest(fmt::format(". {}:{}(1000) ack 1", held + 1, held + 1001));
  CHECK(script.flow->incoming_size() == ByteRing::kMost);
  script.sent.clear();
  script.guest(". 262145:262146(1) ack 1");
  script.expect(". 1:1(0) ack 262145 win 0");
  // It opens in steps.
  script.drain(60'000);
  script.quiet();
  script.drain(6'000);
  script.expect(fmt::format(". 1:1(0) ack 262145 win {}", 66'000 / 8));
}

TEST_CASE("B28: what lies ahead is dropped, and acknowledged as missing") {
  TcpScript script;
  script.establish();
  script.guest("P. 11:21(10) ack 1", "XXXXXXXXXX");
  script.expect(". 1:1(0) ack 1");
  CHECK(script.flow->incoming_size() == 0);
  script.guest("P. 1:11(10) ack 1");
  script.expect(". 1:1(0) ack 11");
  script.drain();
  CHECK(script.delivered == TcpScript::pattern(0, 10));
}

TEST_CASE("B28: of bytes sent twice the first count, whatever the second are") {
  TcpScript script;
  script.establish();
  script.guest("P. 1:6(5) ack 1", "first");
  script.expect(". 1:1(0) ack 6");
  script.guest("P. 1:6(5) ack 1", "other");
  script.expect(". 1:1(0) ack 6");
  script.guest("P. 1:11(10) ack 1", "OTHER-more");
  script.expect(". 1:1(0) ack 11");
  script.guest("P. 10:14(4) ack 1", "XYZ!");
  script.expect(". 1:1(0) ack 14");
  script.drain();
  CHECK(script.delivered == "first-moreYZ!");
}

TEST_CASE("B28: outside of the window nothing is taken, and the answer says where it is") {
  TcpScript script;
  script.establish();
  script.guest("P. 300000:300010(10) ack 1");
  script.expect(". 1:1(0) ack 1");
  script.guest("P. 2147483000:2147483010(10) ack 1");
  script.expect(". 1:1(0) ack 1");
  script.guest("P. 4294967000:4294967010(10) ack 1");
  script.expect(". 1:1(0) ack 1");
  CHECK(script.flow->incoming_size() == 0);
  CHECK(script.flow->is_open());
}

TEST_CASE("a segment that begins inside the window and ends outside is cut") {
  TcpScript script;
  script.establish("S 0:0(0) win 65535 <mss 1460>", ". 1:1(0) ack 1 win 60000");
  script.guest(". 1:60001(60000) ack 1");
  script.expect(". 1:1(0) ack 60001 win 65535");
  script.guest(". 60001:120001(60000) ack 1");
  script.expect(". 1:1(0) ack 120001 win 65535");
  script.guest(". 120001:180001(60000) ack 1");
  script.guest(". 180001:240001(60000) ack 1");
  script.sent.clear();
  script.guest("F. 240001:300001(60000) ack 1");
  script.expect(". 1:1(0) ack 262145 win 0");
  CHECK(!script.flow->guest_has_ended());
}

TEST_CASE("B28: the urgent flag means nothing") {
  TcpScript script;
  script.establish();
  script.guest("PU. 1:11(10) ack 1");
  script.expect(". 1:1(0) ack 11");
  script.drain();
  CHECK(script.delivered == TcpScript::pattern(0, 10));
}

TEST_CASE("B28: one byte at a time") {
  TcpScript script;
  script.establish();
  for (unsigned i = 1; i <= 3000; i++) script.guest(fmt::format(". {}:{}(1) ack 1", i, i + 1));
  script.drain();
  CHECK(script.delivered == TcpScript::pattern(0, 3000));
}

TEST_CASE("a segment without ACK is nothing") {
  TcpScript script;
  script.establish();
  script.guest("P 1:11(10)");
  script.quiet();
  CHECK(script.flow->incoming_size() == 0);
}

// --- Bytes to the guest ------------------------------------------------------------------------

TEST_CASE("bytes for the guest go in segments of its size") {
  TcpScript script;
  script.establish("S 0:0(0) win 65535 <mss 1000,wscale 7>");
  script.far(TcpScript::pattern(0, 2500));
  script.expect(". 1:1001(1000) ack 1");
  script.expect(". 1001:2001(1000) ack 1");
  script.expect("P. 2001:2501(500) ack 1");
  script.quiet();
}

TEST_CASE("a guest without the option gets 536 bytes a segment, with a tiny one 88") {
  TcpScript script;
  script.establish("S 0:0(0) win 65535", ". 1:1(0) ack 1 win 60000");
  script.far(TcpScript::pattern(0, 600));
  script.expect(". 1:537(536) ack 1");
  TcpScript tiny;
  tiny.establish("S 0:0(0) win 65535 <mss 1>", ". 1:1(0) ack 1 win 60000");
  tiny.far(TcpScript::pattern(0, 100));
  tiny.expect(". 1:89(88) ack 1");
}

TEST_CASE("a guest that takes large segments gets them, to be cut into its size") {
  TcpScript script;
  script.is_large = true;
  script.establish("S 0:0(0) win 65535 <mss 1460,wscale 7>", ". 1:1(0) ack 1 win 2000");
  script.far(TcpScript::pattern(0, 200'000));
  for (const auto& sent : script.sent) CHECK(sent.segment_size == 1460);
  std::string got;
  for (const auto& sent : script.sent) got += sent.bytes;
  CHECK(got == TcpScript::pattern(0, 200'000));
  CHECK(script.sent.size() <= 8);
}

TEST_CASE("the guest's window is kept, and its scale counts only behind the SYN") {
  TcpScript script;
  script.establish("S 0:0(0) win 65535 <mss 1460,wscale 2>", ". 1:1(0) ack 1 win 500");
  script.far(TcpScript::pattern(0, 5000));
  script.expect(". 1:1461(1460) ack 1");
  // Half a window is not worth a segment while others are on their way; a full one is.
  script.quiet();
  script.guest(". 1:1(0) ack 1461 win 500");
  script.expect(". 1461:2921(1460) ack 1");
  script.quiet();
  script.guest(". 1:1(0) ack 2921 win 1000");
  script.expect(". 2921:4381(1460) ack 1");
  script.expect("P. 4381:5001(620) ack 1");
  script.quiet();
}

TEST_CASE("an old segment does not take the window back") {
  TcpScript script;
  script.establish("S 0:0(0) win 65535 <mss 1000>", ". 1:1(0) ack 1 win 1000");
  script.guest("P. 1:11(10) ack 1 win 3000");
  script.expect(". 1:1(0) ack 11");
  script.guest("P. 1:11(10) ack 1 win 0");
  script.expect(". 1:1(0) ack 11");
  script.far(TcpScript::pattern(0, 3000));
  script.expect(". 1:1001(1000) ack 11");
  script.expect(". 1001:2001(1000) ack 11");
  script.expect("P. 2001:3001(1000) ack 11");
}

TEST_CASE("a closed window is probed until it opens, however long that takes") {
  TcpScript script;
  script.establish("S 0:0(0) win 65535 <mss 1000>", ". 1:1(0) ack 1 win 0");
  script.far("hello");
  script.quiet();
  for (auto wait : {500ms, 1000ms, 2000ms, 4000ms}) {
    script.pass(wait);
    script.expect(". 0:0(0) ack 1");
    script.quiet();
    script.guest(". 1:1(0) ack 1 win 0");
  }
  for (int minute = 0; minute < 60; minute++) {
    script.pass(60s);
    CHECK(!script.sent.empty());
    script.sent.clear();
    script.guest(". 1:1(0) ack 1 win 0");
  }
  CHECK(script.flow->is_open());
  script.guest(". 1:1(0) ack 1 win 1000");
  script.expect("P. 1:6(5) ack 1");
}

TEST_CASE("B29: a guest that keeps its window closed and answers no probe is given up") {
  TcpScript script;
  script.establish("S 0:0(0) win 65535 <mss 1000>", ". 1:1(0) ack 1 win 0");
  script.far("hello");
  script.pass(10min);
  CHECK(script.flow->is_closed());
  CHECK(script.sent.back().segment.has(tcp::kRst));
}

TEST_CASE("B28: an acknowledgement of what was not sent is answered, and does nothing") {
  TcpScript script;
  script.establish();
  script.far("hello");
  script.expect("P. 1:6(5) ack 1");
  script.guest("P. 1:11(10) ack 7");
  script.expect(". 6:6(0) ack 1");
  CHECK(script.flow->incoming_size() == 0);
  script.guest(". 1:1(0) ack 6");
  script.quiet();
}

TEST_CASE("three duplicate acknowledgements: all is sent again from there, once") {
  TcpScript script;
  script.establish("S 0:0(0) win 65535 <mss 1000,wscale 7>");
  script.far(TcpScript::pattern(0, 3000));
  script.expect(". 1:1001(1000) ack 1");
  script.expect(". 1001:2001(1000) ack 1");
  script.expect("P. 2001:3001(1000) ack 1");
  script.guest(". 1:1(0) ack 1");
  script.guest(". 1:1(0) ack 1");
  script.quiet();
  script.guest(". 1:1(0) ack 1");
  script.expect(". 1:1001(1000) ack 1");
  CHECK(script.last_payload == TcpScript::pattern(0, 1000));
  script.expect(". 1001:2001(1000) ack 1");
  script.expect("P. 2001:3001(1000) ack 1");
  for (int i = 0; i < 20; i++) script.guest(". 1:1(0) ack 1");
  script.guest(". 1:1(0) ack 1001");
  for (int i = 0; i < 20; i++) script.guest(". 1:1(0) ack 1001");
  script.quiet();
  script.guest(". 1:1(0) ack 3001");
  script.quiet();
  CHECK(script.flow->deadline() > script.now + 900'000'000);
}

TEST_CASE("what is not acknowledged is sent again, one segment first, later and later") {
  TcpScript script;
  script.establish("S 0:0(0) win 65535 <mss 1000,wscale 7>");
  script.far(TcpScript::pattern(0, 2500));
  script.sent.clear();
  script.pass(499ms);
  script.quiet();
  script.pass(1ms);
  script.expect(". 1:1001(1000) ack 1");
  script.quiet();
  script.pass(1000ms);
  script.expect(". 1:1001(1000) ack 1");
  script.pass(1999ms);
  script.quiet();
  script.pass(1ms);
  script.expect(". 1:1001(1000) ack 1");
  // The guest had the rest all the time.
  script.guest(". 1:1(0) ack 2501");
  script.quiet();
}

TEST_CASE("after a timeout the rest follows the acknowledgement") {
  TcpScript script;
  script.establish("S 0:0(0) win 65535 <mss 1000,wscale 7>");
  script.far(TcpScript::pattern(0, 2500));
  script.sent.clear();
  script.pass(500ms);
  script.expect(". 1:1001(1000) ack 1");
  script.guest(". 1:1(0) ack 1001");
  script.expect(". 1001:2001(1000) ack 1");
  script.expect("P. 2001:2501(500) ack 1");
}

TEST_CASE("a window that has become small does not keep what was lost from being sent again") {
  TcpScript script;
  script.establish("S 0:0(0) win 65535 <mss 1460>", ". 1:1(0) ack 1 win 20000");
  script.far(TcpScript::pattern(0, 5000));
  script.sent.clear();
  script.guest("P. 1:2(1) ack 1 win 1000");
  script.expect(". 5001:5001(0) ack 2");
  script.pass(500ms);
  script.expect(". 1:1001(1000) ack 2");
}

TEST_CASE("a guest that never acknowledges is given up") {
  TcpScript script;
  script.establish();
  script.far("hello");
  script.pass(100s);
  CHECK(script.flow->is_open());
  script.pass(200s);
  CHECK(script.flow->is_closed());
  CHECK(script.sent.back().segment.has(tcp::kRst));
}

TEST_CASE("B29: bytes for a guest that takes none have their bound") {
  TcpScript script;
  script.establish("S 0:0(0) win 65535 <mss 1460>", ". 1:1(0) ack 1 win 0");
  size_t produced = 0;
  for (;;) {
    size_t size = 0;
    for (auto piece : script.flow->outgoing_room()) size += piece.size();
    if (size == 0) break;
    script.flow->produced(size, script.now);
    produced += size;
    REQUIRE(produced <= ByteRing::kMost);
  }
  CHECK(produced == ByteRing::kMost);
}

TEST_CASE("a guest without room is waited for, and nothing is lost") {
  TcpScript script;
  script.establish("S 0:0(0) win 65535 <mss 1000,wscale 7>");
  script.room = 1;
  script.far(TcpScript::pattern(0, 2500));
  script.expect(". 1:1001(1000) ack 1");
  script.quiet();
  CHECK(!script.flush());
  script.room = 10;
  CHECK(script.flush());
  script.expect(". 1001:2001(1000) ack 1");
  script.expect("P. 2001:2501(500) ack 1");
  script.quiet();
  script.room = 0;
  script.guest("P. 1:6(5) ack 2501");
  CHECK(!script.flush());
  script.room = 1;
  CHECK(script.flush());
  script.expect(". 2501:2501(0) ack 6");
}

// --- The end -----------------------------------------------------------------------------------

TEST_CASE("the guest ends first; the far side goes on and ends later") {
  TcpScript script;
  script.establish();
  script.guest("FP. 1:6(5) ack 1", "query");
  script.expect(". 1:1(0) ack 7");
  CHECK(!script.flow->guest_is_drained());
  script.drain();
  CHECK(script.flow->guest_is_drained());
  script.far("answer");
  script.expect("P. 1:7(6) ack 7");
  script.guest(". 7:7(0) ack 7");
  script.far_ends();
  script.expect("F. 7:7(0) ack 7");
  CHECK(script.flow->is_open());
  script.guest(". 7:7(0) ack 8");
  CHECK(script.flow->is_closed());
  CHECK(!script.flow->was_cut());
}

TEST_CASE("the far side ends first; the guest goes on and ends later") {
  TcpScript script;
  script.establish();
  script.far("hello");
  script.expect("P. 1:6(5) ack 1");
  script.far_ends();
  script.expect("F. 6:6(0) ack 1");
  script.guest("P. 1:11(10) ack 7");
  script.expect(". 7:7(0) ack 11");
  script.guest("F. 11:11(0) ack 7");
  script.expect(". 7:7(0) ack 12");
  CHECK(script.flow->state() == State::kTimeWait);
  script.drain();
  CHECK(script.flow->guest_is_drained());
  // The last acknowledgement was lost.
  script.guest("F. 11:11(0) ack 7");
  script.expect(". 7:7(0) ack 12");
  script.pass(3s);
  CHECK(script.flow->is_closed());
  CHECK(!script.flow->was_cut());
}

TEST_CASE("the end travels with the last bytes") {
  TcpScript script;
  script.establish();
  script.room = 0;
  script.far("hello");
  script.far_ends();
  script.room = 10;
  script.flush();
  script.expect("FP. 1:6(5) ack 1");
  script.guest(". 1:1(0) ack 7");
  script.guest("F. 1:1(0) ack 7");
  script.expect(". 7:7(0) ack 2");
  CHECK(script.flow->state() == State::kTimeWait);
}

TEST_CASE("a lost end is sent again, with bytes and alone") {
  TcpScript script;
  script.establish();
  script.far("hello");
  script.far_ends();
  script.sent.clear();
  script.pass(500ms);
  script.expect("FP. 1:6(5) ack 1");
  script.guest(". 1:1(0) ack 6");
  script.quiet();
  script.pass(500ms);
  script.expect("F. 6:6(0) ack 1");
  script.guest(". 1:1(0) ack 7");
  script.pass(5s);
  script.quiet();
}

TEST_CASE("both end at once") {
  TcpScript script;
  script.establish();
  script.far_ends();
  script.expect("F. 1:1(0) ack 1");
  script.guest("F. 1:1(0) ack 1");
  script.expect(". 2:2(0) ack 2");
  CHECK(script.flow->is_open());
  script.guest(". 2:2(0) ack 2");
  CHECK(script.flow->is_closed());
  CHECK(!script.flow->was_cut());
}

TEST_CASE("B28: an end ahead of missing bytes does not count") {
  TcpScript script;
  script.establish();
  script.guest("F. 11:11(0) ack 1");
  script.expect(". 1:1(0) ack 1");
  CHECK(!script.flow->guest_has_ended());
  script.guest("F. 1:11(10) ack 1");
  script.expect(". 1:1(0) ack 12");
  CHECK(script.flow->guest_has_ended());
}

TEST_CASE("B28: after the guest's end there is nothing more of it") {
  TcpScript script;
  script.establish();
  script.guest("F. 1:6(5) ack 1", "hello");
  script.expect(". 1:1(0) ack 7");
  script.guest("P. 7:17(10) ack 1");
  script.expect(". 1:1(0) ack 7");
  script.guest("P. 6:16(10) ack 1");
  script.expect(". 1:1(0) ack 7");
  script.guest("FP. 1:17(16) ack 1");
  script.expect(". 1:1(0) ack 7");
  script.drain();
  CHECK(script.delivered == "hello");
}

TEST_CASE("all that came before is delivered though both directions have ended") {
  TcpScript script;
  script.establish();
  script.far_ends();
  script.sent.clear();
  script.guest("F. 1:11(10) ack 2");
  CHECK(script.flow->state() == State::kTimeWait);
  script.pass(30s);
  CHECK(script.flow->state() == State::kTimeWait);
  script.drain();
  CHECK(script.delivered == TcpScript::pattern(0, 10));
  script.pass(1s);
  CHECK(script.flow->is_closed());
  CHECK(!script.flow->was_cut());
}

TEST_CASE("B28: a reset counts in its exact place only") {
  TcpScript script;
  script.establish();
  script.guest("P. 1:11(10) ack 1");
  script.expect(". 1:1(0) ack 11");
  script.guest("R 1:1(0)");            // before
  script.guest("R 300000:300000(0)");  // beyond
  script.quiet();
  CHECK(script.flow->is_open());
  script.guest("R 20:20(0)");  // inside: the guest is asked
  script.expect(". 1:1(0) ack 11");
  script.guest("R 30:30(0)");  // but not for each
  script.quiet();
  script.guest("R 11:11(0)");
  CHECK(script.flow->is_closed());
  CHECK(script.flow->was_cut());
  script.quiet();
}

TEST_CASE("B28: a SYN in a connection resets nothing") {
  TcpScript script;
  script.establish();
  script.guest("S 1:1(0) win 65535");
  script.expect(". 1:1(0) ack 1");
  script.now += 10'000'000;
  script.guest("S. 1:1(0) ack 1");
  script.expect(". 1:1(0) ack 1");
  CHECK(script.flow->is_open());
}

TEST_CASE("two that disagree do not answer each other for ever") {
  TcpScript script;
  script.establish();
  for (int i = 0; i < 100; i++) {
    script.guest(". 4294960000:4294960000(0) ack 1");
    script.now += 100'000;
  }
  CHECK(script.sent.size() <= 3);
}

TEST_CASE("a far side that breaks resets the guest's connection, behind the bytes that it sent") {
  TcpScript script;
  script.establish();
  script.room = 0;
  script.far("last words");
  script.far_ends(Ending::kReset);
  CHECK(script.flow->is_open());
  script.room = 10;
  script.flush();
  script.expect("P. 1:11(10) ack 1");
  script.expect("R. 11:11(0) ack 1");
  CHECK(script.flow->is_closed());
  CHECK(script.flow->was_cut());
}

TEST_CASE("a far side that breaks after its end resets too") {
  TcpScript script;
  script.establish();
  script.far_ends();
  script.expect("F. 1:1(0) ack 1");
  script.far_ends(Ending::kReset);
  script.expect("R. 2:2(0) ack 1");
}

TEST_CASE("a flow that is cut resets the guest's connection, when there is room") {
  TcpScript script;
  script.establish();
  script.guest("P. 1:11(10) ack 1");
  script.sent.clear();
  script.room = 0;
  script.flow->abort(script.now);
  CHECK(!script.flush());
  CHECK(script.flow->memory() == 0);
  script.guest("P. 11:21(10) ack 1");
  script.room = 1;
  script.flush();
  script.expect("R. 1:1(0) ack 11");
  CHECK(script.flow->is_closed());
}

TEST_CASE("a guest that never makes room for its reset is not waited for") {
  TcpScript script;
  script.establish();
  script.room = 0;
  script.flow->abort(script.now);
  script.pass(61s);
  CHECK(script.flow->is_closed());
}

// --- Time --------------------------------------------------------------------------------------

TEST_CASE("two hours without a byte are the end") {
  TcpScript script;
  script.establish();
  for (int i = 0; i < 3; i++) {
    script.pass(59min);
    script.guest("P. 1:1(0) ack 1");  // nothing, but the guest is there
    script.pass(0s);
  }
  CHECK(script.flow->is_closed());
  CHECK(script.sent.back().segment.has(tcp::kRst));
}

TEST_CASE("a byte, or a guest that asks to be kept, begins the two hours anew") {
  TcpScript script;
  script.establish();
  for (int i = 0; i < 3; i++) {
    script.pass(59min);
    script.guest(". 0:0(0) ack 1");  // a keep-alive
    script.expect(". 1:1(0) ack 1");
  }
  script.pass(59min);
  script.guest(". 1:2(1) ack 1");
  script.expect(". 1:1(0) ack 2");
  script.drain();
  script.pass(59min);
  CHECK(script.flow->is_open());
}

TEST_CASE("a guest that has been silent for an hour is asked; when it is gone, so is the flow") {
  TcpScript script;
  script.establish();
  script.pass(60min);
  script.expect(". 0:0(0) ack 1");
  script.quiet();
  script.guest(". 1:1(0) ack 1");
  script.quiet();
  script.pass(59min);
  script.quiet();
  TcpScript gone;
  gone.establish();
  gone.pass(66min);
  for (int i = 0; i < 5; i++) gone.expect(". 0:0(0) ack 1");
  gone.expect("R. 1:1(0) ack 1");
}

TEST_CASE("half-closed, the guest may wait for as long as its kernel has the connection") {
  TcpScript script;
  script.establish();
  script.guest("F. 1:1(0) ack 1");
  script.sent.clear();
  for (int i = 0; i < 20; i++) {
    script.pass(69s);
    script.quiet();
    script.pass(1s);
    script.expect(". 0:0(0) ack 2");  // whether it is there
    script.guest(". 2:2(0) ack 1");   // it is
    script.quiet();
  }
  script.far("x");
  script.expect("P. 1:2(1) ack 2");
  CHECK(script.flow->is_open());
}

TEST_CASE("half-closed by the far side, the guest is asked too") {
  TcpScript script;
  script.establish();
  script.far_ends();
  script.expect("F. 1:1(0) ack 1");
  script.guest(". 1:1(0) ack 2");
  for (int i = 0; i < 20; i++) {
    script.pass(70s);
    script.expect(". 1:1(0) ack 1");
    script.guest(". 1:1(0) ack 2");
  }
  CHECK(script.flow->is_open());
}

TEST_CASE("half-closed, a guest whose application has gone says so when it is asked") {
  TcpScript script;
  script.establish();
  script.guest("F. 1:1(0) ack 1");
  script.sent.clear();
  script.pass(70s);
  script.expect(". 0:0(0) ack 2");
  script.guest("R. 2:2(0) ack 1");
  CHECK(script.flow->is_closed());
  CHECK(script.flow->was_cut());
}

TEST_CASE("half-closed, a guest that answers no more is cut after a few minutes") {
  TcpScript script;
  script.establish();
  script.guest("F. 1:1(0) ack 1");
  script.sent.clear();
  script.pass(6min + 9s);
  for (int i = 0; i < 5; i++) script.expect(". 0:0(0) ack 2");
  script.quiet();
  script.pass(1s);
  script.expect("R. 1:1(0) ack 2");
  CHECK(script.flow->was_cut());
}

TEST_CASE("an idle flow holds no memory") {
  TcpScript script;
  script.establish();
  script.sink_room = 100'000;
  script.guest("P. 1:11(10) ack 1");
  script.drain();
  script.far("hello");
  script.guest(". 11:11(0) ack 6");
  CHECK(script.flow->memory() > 0);
  script.pass(2s);
  CHECK(script.flow->memory() == 0);
  CHECK(script.budget.used() == 0);
}

TEST_CASE("B29: without memory bytes wait with the guest, and go on when there is some") {
  TcpScript script;
  script.establish();
  REQUIRE(script.budget.take(script.budget.left()));
  script.guest(". 1:3001(3000) ack 1");
  script.guest(". 3001:6001(3000) ack 1");
  CHECK(script.flow->incoming_size() == ByteRing::kLeast);
  script.sent.clear();
  script.guest(". 4097:6001(1904) ack 1");
  script.expect(". 1:1(0) ack 4097");
  script.drain();
  script.guest(". 4097:6001(1904) ack 1");
  script.drain();
  CHECK(script.delivered == TcpScript::pattern(0, 6000));
  script.budget.give(script.budget.used());
}

}  // namespace
}  // namespace hutch::net
