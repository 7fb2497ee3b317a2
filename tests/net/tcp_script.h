// A script for one TcpFlow: the guest's segments go in, the flow's are expected, written as
// packetdrill does.
//
//   TcpScript script;
//   script.establish();
//   script.guest("P. 1:6(5) ack 1 win 1000", "hello");
//   script.expect(". 1:1(0) ack 6");
//   CHECK(script.delivered == "hello");
//
// A segment is FLAGS FIRST:LAST(LENGTH) [ack N] [win N] [<mss N,wscale N>]. Flags: S F R P U, and .
// for ACK. Numbers count from each side's first one, which is close to where they wrap. What an
// expectation does not name (window, options) it does not compare.
#pragma once

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cstdio>
#include <cstring>
#include <deque>
#include <memory>
#include <string>
#include <string_view>

#include "net/tcp_flow.h"

namespace hutch::testing {

class TcpScript final : public net::SegmentSender, public net::ByteSink {
 public:
  static constexpr uint32_t kGuestFirst = 0xffffff00;
  static constexpr uint32_t kOwnFirst = 0xfffffff8;
  static constexpr uint64_t kStart = 1'000'000'000;

  // The bytes of each direction that a script does not spell out.
  static char pattern(size_t offset) { return static_cast<char>('a' + offset % 23); }
  static std::string pattern(size_t offset, size_t count) {
    std::string text(count, '\0');
    for (size_t i = 0; i < count; i++) text[i] = pattern(offset + i);
    return text;
  }

  // The guest's SYN comes, and the flow begins to open.
  void syn(std::string_view text = "S 0:0(0) win 65535 <mss 1460,wscale 7>") {
    flow = std::make_unique<net::TcpFlow>(
        parse(text, {}), net::TcpFlow::Parameters{.initial_sequence = kOwnFirst, .now_ns = now},
        budget);
  }
  void connected() {
    flow->connected(now);
    flush();
  }
  // The handshake, and somebody who takes the bytes.
  void establish(std::string_view text = "S 0:0(0) win 65535 <mss 1460,wscale 7>",
                 std::string_view ack = ". 1:1(0) ack 1 win 512") {
    syn(text);
    connected();
    expect("S. 0:0(0) ack 1");
    guest(ack);
    quiet();
    flow->joined(now);
    has_sink = true;
    expect_window_update();
  }

  // A segment of the guest; `payload` instead of the pattern.
  void guest(std::string_view text, std::string_view payload = {}) {
    flow->receive(parse(text, payload), has_sink ? this : nullptr, now);
    flush();
  }
  // The next segment that the flow has sent.
  void expect(std::string_view text) {
    INFO("expected: ", text);
    if (sent.empty()) {
      CHECK_MESSAGE(!sent.empty(), "nothing was sent");
      return;
    }
    const Sent segment = sent.front();
    sent.pop_front();
    CHECK(format(segment, text) == text);
  }
  void quiet() {
    CHECK_MESSAGE(sent.empty(), (sent.empty() ? std::string() : format(sent.front(), "win<")));
    sent.clear();
  }
  // The payload of the segment that was expected last.
  std::string last_payload;

  // The far side sends.
  void far(std::string_view bytes) {
    while (!bytes.empty()) {
      size_t done = 0;
      for (std::span<std::byte> piece : flow->outgoing_room()) {
        const size_t count = std::min(piece.size(), bytes.size() - done);
        if (count > 0) std::memcpy(piece.data(), bytes.data() + done, count);
        done += count;
      }
      CHECK(done > 0);
      if (done == 0) return;
      flow->produced(done, now);
      bytes = bytes.substr(done);
    }
    flush();
  }
  void far_ends(net::TcpFlow::Ending ending = net::TcpFlow::Ending::kFin) {
    flow->end(ending, now);
    flush();
  }
  // The far side takes what is held.
  void drain(size_t limit = SIZE_MAX) {
    for (std::span<const std::byte> piece : flow->incoming()) {
      const size_t count = std::min(limit, piece.size());
      delivered.append(reinterpret_cast<const char*>(piece.data()), count);
      limit -= count;
      drained_ += count;
    }
    flow->consumed(std::exchange(drained_, 0), now);
    flush();
  }
  // Time passes; what is due happens at its time.
  void pass(std::chrono::nanoseconds time) {
    const uint64_t end = now + static_cast<uint64_t>(time.count());
    while (flow->deadline() <= end) {
      now = std::max(now, flow->deadline());
      flow->on_timer(now);
      flush();
    }
    now = end;
  }
  bool flush() { return flow->flush(*this, now); }

  size_t max_payload(uint16_t segment_size) const override {
    return is_large ? size_t{65000} / segment_size * segment_size : segment_size;
  }
  bool send(const net::TcpSegment& segment, uint16_t segment_size) override {
    if (room == 0) return false;
    room--;
    Sent copy{segment, {}, segment_size};
    for (std::span<const std::byte> piece : segment.payload)
      copy.bytes.append(reinterpret_cast<const char*>(piece.data()), piece.size());
    sent.push_back(std::move(copy));
    return true;
  }
  size_t take(std::span<const std::byte> bytes) override {
    const size_t count = std::min(bytes.size(), sink_room);
    delivered.append(reinterpret_cast<const char*>(bytes.data()), count);
    sink_room -= count;
    return count;
  }

  struct Sent {
    net::TcpSegment segment;
    std::string bytes;
    uint16_t segment_size = 0;
  };

  uint64_t now = kStart;
  net::BufferBudget budget{64 << 20};
  std::unique_ptr<net::TcpFlow> flow;
  std::deque<Sent> sent;
  std::string delivered;  // to the far side
  bool has_sink = false;
  size_t sink_room = 0;    // what take() still takes
  size_t room = SIZE_MAX;  // segments that the guest still has room for
  bool is_large = false;   // the guest takes segments that are cut

 private:
  static constexpr std::pair<char, uint8_t> kFlags[] = {
      {'S', net::tcp::kSyn}, {'F', net::tcp::kFin}, {'R', net::tcp::kRst},
      {'P', net::tcp::kPsh}, {'U', net::tcp::kUrg}, {'.', net::tcp::kAck}};

  // joined() opens the window further, which is told.
  void expect_window_update() {
    flush();
    sent.clear();
  }

  static uint32_t number_after(std::string_view text, std::string_view word, uint32_t otherwise) {
    const size_t found = text.find(word);
    if (found == std::string_view::npos) return otherwise;
    return static_cast<uint32_t>(std::stoul(std::string(text.substr(found + word.size()))));
  }

  net::TcpSegment parse(std::string_view text, std::string_view payload) {
    char flags[8] = "";
    unsigned first = 0, last = 0, length = 0;
    REQUIRE(std::sscanf(std::string(text).c_str(), "%7s %u:%u(%u)", flags, &first, &last,
                        &length) == 4);
    REQUIRE(last - first == length);
    REQUIRE((payload.empty() || payload.size() == length));
    net::TcpSegment segment{.sequence = kGuestFirst + first};
    for (auto [letter, flag] : kFlags)
      if (std::strchr(flags, letter) != nullptr) segment.flags |= flag;
    if (segment.has(net::tcp::kAck))
      segment.acknowledgement = kOwnFirst + number_after(text, "ack ", 0);
    segment.window = static_cast<uint16_t>(number_after(text, "win ", 512));
    if (text.find("mss ") != std::string_view::npos)
      segment.mss = static_cast<uint16_t>(number_after(text, "mss ", 0));
    if (text.find("wscale ") != std::string_view::npos)
      segment.window_scale = static_cast<uint8_t>(number_after(text, "wscale ", 0));
    // In memory of its own, so that a sanitizer sees what is kept of it.
    guest_bytes_ = std::make_unique<std::string>(!payload.empty() ? std::string(payload)
                                                                  : pattern(first - 1, length));
    segment.payload[0] = std::as_bytes(std::span(*guest_bytes_));
    return segment;
  }

  std::string format(const Sent& sent_segment, std::string_view like) {
    const net::TcpSegment& segment = sent_segment.segment;
    last_payload = sent_segment.bytes;
    std::string flags;
    for (auto [letter, flag] : kFlags)
      if (segment.has(flag)) flags += letter;
    const uint32_t first = segment.sequence - kOwnFirst;
    std::string text =
        fmt::format("{} {}:{}({})", flags, first, first + last_payload.size(), last_payload.size());
    if (segment.has(net::tcp::kAck))
      text += fmt::format(" ack {}", segment.acknowledgement - kGuestFirst);
    if (like.find("win") != std::string_view::npos) text += fmt::format(" win {}", segment.window);
    if (like.find('<') != std::string_view::npos && (segment.mss || segment.window_scale)) {
      std::string options;
      if (segment.mss) options += fmt::format("mss {}", *segment.mss);
      if (segment.window_scale)
        options += fmt::format("{}wscale {}", segment.mss ? "," : "", *segment.window_scale);
      text += fmt::format(" <{}>", options);
    }
    return text;
  }

  std::unique_ptr<std::string> guest_bytes_;
  size_t drained_ = 0;
};

}  // namespace hutch::testing
