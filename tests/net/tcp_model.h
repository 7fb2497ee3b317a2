// A model checker for TcpFlow: a guest, a far side and a clock that do anything in any order, as
// the bytes of an input choose. Promised, whatever happens:
//
// - the bytes that leave are a prefix of what the guest first sent in each place, in order;
// - the bytes for the guest are the far side's, in order, and never beyond its window;
// - nothing is acknowledged that was not sent; a window that was told is never taken back;
// - memory has its bound;
// - and if nobody cuts the flow, both directions finish once nothing is lost any more.
//
// Used by the unit tests with random inputs, and by a fuzzer.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "net/tcp_flow.h"
#include "tests/fuzz/fuzz_input.h"

namespace hutch::testing {

class TcpModel final : public net::SegmentSender, public net::ByteSink {
 public:
  explicit TcpModel(fuzz::FuzzInput& input)
      : input_(input),
        guest_first_(input.take<uint32_t>()),
        own_first_(input.take<uint32_t>()),
        is_large_(input.flip()),
        is_big_(input.byte() >= 224),
        guest_scale_(input.flip() ? input.below(15) : 0),
        budget_(input.flip() ? size_t{1} << 20 : input.take<uint16_t>()) {}

  // Returns what promise was broken; empty: none.
  std::string run() {
    const net::TcpSegment syn{
        .sequence = guest_first_,
        .flags = net::tcp::kSyn,
        .window = input_.take<uint16_t>(),
        .mss = static_cast<uint16_t>(input_.below(2000)),
        .window_scale = guest_scale_ != 0 || input_.flip()
                            ? std::optional(static_cast<uint8_t>(guest_scale_))
                            : std::nullopt};
    scales_ = syn.window_scale.has_value();
    guest_edge_ = syn.window;
    flow_ = std::make_unique<net::TcpFlow>(
        syn, net::TcpFlow::Parameters{.initial_sequence = own_first_, .now_ns = now_}, budget_);
    for (int step = 0; step < 400 && !input_.is_empty() && broken_.empty(); step++) act();
    if (broken_.empty() && !is_cut_) finish();
    if (broken_.empty() && !is_cut_ && flow_->was_cut()) fail("cut without a cause");
    return broken_;
  }

  size_t max_payload(uint16_t segment_size) const override {
    return is_large_ ? size_t{65000} / segment_size * segment_size : segment_size;
  }

  bool send(const net::TcpSegment& segment, uint16_t segment_size) override {
    if (room_ == 0) return false;
    if (room_ != SIZE_MAX) room_--;
    check(segment, segment_size);
    if (lost_ > 0) {
      lost_--;
    } else {
      guest_takes(segment);
    }
    return true;
  }

  size_t take(std::span<const std::byte> bytes) override {
    const size_t count = std::min(bytes.size(), sink_room_);
    leave(bytes.first(count));
    sink_room_ -= count;
    return count;
  }

 private:
  static constexpr std::byte kEvil{0xff};  // in neither pattern
  // The bytes of a direction from `position` on, at least one segment of them.
  template <uint32_t kPeriod>
  static const std::byte* pattern(uint32_t position) {
    static const std::vector<std::byte> bytes = [] {
      std::vector<std::byte> all(kPeriod + (1 << 18));
      for (size_t i = 0; i < all.size(); i++) all[i] = static_cast<std::byte>(i % kPeriod);
      return all;
    }();
    return bytes.data() + position % kPeriod;
  }
  static const std::byte* guests(uint32_t position) { return pattern<251>(position); }
  static const std::byte* fars(uint32_t position) { return pattern<241>(position); }
  static bool is_same(std::span<const std::byte> bytes, const std::byte* expected) {
    return bytes.empty() || std::memcmp(bytes.data(), expected, bytes.size()) == 0;
  }
  // A size below `limit`; mostly far below, so that most lives are short.
  uint32_t size(uint32_t limit) { return input_.below(is_big_ ? limit : limit / 16 + 1); }

  void fail(std::string text) {
    if (broken_.empty()) broken_ = std::move(text);
  }

  // --- What must hold ---------------------------------------------------------------------------

  void leave(std::span<const std::byte> bytes) {
    if (!is_same(bytes, guests(left_))) fail("a byte leaves changed");
    left_ += static_cast<uint32_t>(bytes.size());
    if (left_ > sent_) fail("more bytes leave than were sent");
  }

  void check(const net::TcpSegment& segment, uint16_t segment_size) {
    if (flow_->memory() > 2 * net::ByteRing::kMost) fail("memory");
    if (segment.payload_size() > max_payload(segment_size)) fail("a segment is too long");
    if (segment.has(net::tcp::kRst)) return;
    if (segment.has(net::tcp::kSyn)) is_answered_ = true;
    uint32_t position = segment.sequence - own_first_ - 1;
    for (auto piece : segment.payload) {
      if (!is_same(piece, fars(position))) fail("a byte for the guest is another");
      position += static_cast<uint32_t>(piece.size());
    }
    if (segment.payload_size() > 0) {
      if (position > produced_) fail("bytes for the guest from nowhere");
      if (net::distance(guest_edge_, position) > 0) fail("beyond the guest's window");
    }
    if (!segment.has(net::tcp::kAck)) fail("a segment without acknowledgement");
    const uint32_t acknowledged = segment.acknowledgement - guest_first_ - 1;
    if (net::distance(acknowledged_, acknowledged) < 0) fail("an acknowledgement goes back");
    if (acknowledged > sent_ + (fin_sent_ ? 1 : 0)) fail("what was not sent is acknowledged");
    if (acknowledged > own_edge_ + (fin_sent_ ? 1 : 0)) fail("it takes more than its window");
    const bool scaled = scales_ && !segment.has(net::tcp::kSyn);
    const uint32_t window = static_cast<uint32_t>(segment.window) << (scaled ? 3 : 0);
    const uint32_t edge = acknowledged + window;
    // What the scale cuts off is not taken back: it is still accepted.
    if (net::distance(own_edge_, edge) < -8 && acknowledged <= sent_) fail("the window shrinks");
    if (net::distance(own_edge_, edge) > 0) own_edge_ = edge;
    acknowledged_ = acknowledged;
    is_exact_ = true;
  }

  // --- The guest --------------------------------------------------------------------------------

  void guest_takes(const net::TcpSegment& segment) {
    if (segment.has(net::tcp::kSyn) || segment.has(net::tcp::kRst)) return;
    const uint32_t position = segment.sequence - own_first_ - 1;
    const uint32_t end = position + static_cast<uint32_t>(segment.payload_size());
    if (net::distance(received_, position) > 0 || got_fin_) return;
    if (net::distance(received_, end) > 0) received_ = end;
    if (segment.has(net::tcp::kFin) && received_ == end) got_fin_ = true;
  }

  uint32_t guest_acknowledges() const { return own_first_ + 1 + received_ + (got_fin_ ? 1 : 0); }

  // A segment of the guest: `evil` bytes of another content, then honest ones.
  void inject(uint32_t position, uint32_t length, uint8_t flags, uint32_t evil = 0) {
    // In memory of its own: nothing of it may be kept.
    std::vector<std::byte> bytes(length);
    std::copy_n(guests(position), length, bytes.begin());
    std::fill_n(bytes.begin(), evil, kEvil);
    net::TcpSegment segment{.sequence = guest_first_ + 1 + position,
                            .acknowledgement = guest_acknowledges(),
                            .flags = flags,
                            .window = guest_window_,
                            .payload = {bytes}};
    inject(segment);
  }
  void inject(const net::TcpSegment& segment) {
    if (segment.has(net::tcp::kAck) && segment.acknowledgement == guest_acknowledges()) {
      const uint32_t edge = segment.acknowledgement - own_first_ - 1 +
                            (static_cast<uint32_t>(segment.window) << guest_scale_);
      if (net::distance(guest_edge_, edge) > 0) guest_edge_ = edge;
    }
    if (room_ == 0) is_exact_ = false;
    flow_->receive(segment, is_joined_ ? this : nullptr, now_);
    flush();
  }

  uint32_t guest_room() const {
    const int32_t room = net::distance(sent_, own_edge_);
    return room > 0 ? static_cast<uint32_t>(room) : 0;
  }
  void guest_sends(uint32_t most) {
    if (fin_sent_) return;
    // Mostly within the window.
    const uint32_t length = input_.rarely() ? most : std::min(most, guest_room());
    const uint32_t position = sent_;
    sent_ += length;
    inject(position, length, flags());
  }
  uint8_t flags() {
    uint8_t flags = net::tcp::kAck;
    if (input_.rarely()) flags |= net::tcp::kUrg;
    if (input_.flip()) flags |= net::tcp::kPsh;
    return flags;
  }
  void guest_repeats() {
    if (acknowledged_ >= sent_) return;
    const uint32_t length = std::min(sent_ - acknowledged_, input_.below(5000) + 1);
    const bool has_fin = fin_sent_ && acknowledged_ + length == sent_;
    inject(acknowledged_, length,
           static_cast<uint8_t>(net::tcp::kAck | (has_fin ? net::tcp::kFin : 0)));
  }
  // What was acknowledged comes again, changed, with what follows it.
  void guest_overlaps() {
    const uint32_t begin = acknowledged_ - std::min(acknowledged_, input_.below(4000));
    const uint32_t last = std::min(sent_, acknowledged_ + input_.below(2000));
    if (begin >= last || acknowledged_ > sent_) return;
    inject(begin, last - begin, flags(), acknowledged_ - begin);
  }
  // Ahead of what is expected, with bytes that never may leave.
  void guest_runs_ahead() {
    if (!is_exact_ || acknowledged_ > sent_) return;
    const uint32_t length = input_.below(3000) + 1;
    const auto fin = static_cast<uint8_t>(input_.rarely() ? net::tcp::kFin : 0);
    // The newest segment's window counts, and none that comes later is as new: a closed one would
    // be the guest's own fault.
    guest_window_ = 65535;
    inject(acknowledged_ + 1 + input_.below(70'000), length, static_cast<uint8_t>(flags() | fin),
           length);
  }
  void guest_talks_nonsense() {
    const uint32_t position = input_.take<uint32_t>();
    const uint32_t length = input_.below(100);
    // Whatever could be in order is not nonsense.
    const int32_t ahead = net::distance(acknowledged_, position);
    if (std::abs(int64_t{ahead}) < 600'000) return;
    std::vector<std::byte> bytes(length, kEvil);
    // Another SYN begins anew as long as the first has no answer; the model knows one only.
    const bool may_be_syn = flow_->state() != net::TcpFlow::State::kOpening;
    inject(net::TcpSegment{
        .sequence = guest_first_ + 1 + position,
        .acknowledgement = input_.take<uint32_t>(),
        .flags = static_cast<uint8_t>(input_.byte() & (may_be_syn ? 0xff : ~net::tcp::kSyn)),
        .window = 0,
        .payload = {bytes}});
  }
  void guest_acknowledges_oddly() {
    // Of the past, or of what will never be: that must not move anything.
    const uint32_t real = guest_acknowledges();
    const uint32_t odd = input_.flip() ? real - input_.below(100'000)
                                       : own_first_ + 2 + produced_ + 1 + input_.below(100'000);
    inject(net::TcpSegment{.sequence = guest_first_ + 1 + acknowledged_,
                           .acknowledgement = odd,
                           .flags = net::tcp::kAck,
                           .window = 0});
  }
  void guest_acknowledges_often() {
    for (int i = 0; i < 4; i++) inject(acknowledged_, 0, net::tcp::kAck);
  }
  void guest_ends() {
    if (fin_sent_ || !is_answered_) return;
    fin_sent_ = true;
    inject(sent_, 0, net::tcp::kAck | net::tcp::kFin);
  }

  // --- The far side -----------------------------------------------------------------------------

  void connect() {
    flow_->connected(now_);
    if (input_.flip()) join();
    flush();
  }
  void join() {
    if (is_joined_ || flow_->state() == net::TcpFlow::State::kOpening) return;
    is_joined_ = true;
    flow_->joined(now_);
    if (flow_->incoming()[1].size() != 0) fail("first bytes in two pieces");
    flush();
  }
  void drain(size_t limit) {
    if (!is_joined_ || flow_->is_closed()) return;
    size_t done = 0;
    for (auto piece : flow_->incoming()) {
      const size_t count = std::min(piece.size(), limit - done);
      leave(piece.first(count));
      done += count;
    }
    flow_->consumed(done, now_);
    flush();
  }
  void far_sends(size_t limit) {
    if (far_ended_) return;
    size_t done = 0;
    for (auto piece : flow_->outgoing_room()) {
      const size_t count = std::min(piece.size(), limit - done);
      std::copy_n(fars(produced_), count, piece.begin());
      produced_ += static_cast<uint32_t>(count);
      done += count;
    }
    flow_->produced(done, now_);
    flush();
  }
  void far_ends() {
    far_ended_ = true;
    flow_->end(net::TcpFlow::Ending::kFin, now_);
    flush();
  }

  // --- Time, and all together -------------------------------------------------------------------

  void flush() {
    flow_->flush(*this, now_);
    if (flow_->memory() > budget_.used() + 2 * net::ByteRing::kLeast) fail("memory");
  }

  void pass(uint64_t time_ns) {
    const uint64_t end = now_ + time_ns;
    for (int i = 0; flow_->deadline() <= end; i++) {
      if (i > 1000) return fail("a timer that is never done");
      now_ = std::max(now_, flow_->deadline());
      flow_->on_timer(now_);
      flush();
    }
    now_ = end;
  }

  void act() {
    switch (input_.below(24)) {
      case 0:
      case 1:
        return guest_sends(size(3000));
      case 2:
        return guest_sends(size(60'000));
      case 3:
        return guest_sends(1);
      case 4:
        return guest_repeats();
      case 5:
        return guest_overlaps();
      case 6:
        return guest_runs_ahead();
      case 7:
        return guest_talks_nonsense();
      case 8:
      case 9:
        guest_window_ = input_.rarely() ? uint16_t{0} : input_.take<uint16_t>();
        return inject(std::min(sent_, acknowledged_), 0, net::tcp::kAck);
      case 10:
        return guest_acknowledges_oddly();
      case 11:
        return guest_acknowledges_often();
      case 12:
        sink_room_ = size(100'000);
        return;
      case 13:
        return drain(size(100'000));
      case 14:
      case 15:
        return far_sends(size(100'000));
      case 16:
        if (input_.rarely()) far_ends();
        return;
      case 17:
        if (input_.rarely()) guest_ends();
        return;
      case 18:
        room_ = input_.flip() ? SIZE_MAX : input_.below(5);
        flush();
        return;
      case 19:
        lost_ = input_.below(6);
        return;
      case 20: {
        // Together too little for any limit of a flow.
        const uint64_t time_ns = input_.below(2000) * uint64_t{1'000'000};
        if (passed_ns_ + time_ns > 9'000'000'000) return;
        passed_ns_ += time_ns;
        return pass(time_ns);
      }
      case 21:
        return connect();
      case 22:
        return join();
      default:
        if (input_.rarely()) cut();
    }
  }

  void cut() {
    is_cut_ = true;
    switch (input_.below(4)) {
      case 0:
        flow_->abort(now_);
        return flush();
      case 1:
        far_ended_ = true;
        flow_->end(net::TcpFlow::Ending::kReset, now_);
        return flush();
      case 2:
        return inject(
            net::TcpSegment{.sequence = guest_first_ + 1 + acknowledged_, .flags = net::tcp::kRst});
      default:
        return pass(uint64_t{1} << (20 + input_.below(24)));
    }
  }

  // Nothing is lost any more, and everybody does what he should.
  void finish() {
    room_ = SIZE_MAX;
    lost_ = 0;
    sink_room_ = SIZE_MAX;
    guest_window_ = 65535;
    connect();
    join();
    far_ends();
    for (int round = 0; round < 3000 && !flow_->is_closed() && broken_.empty(); round++) {
      join();
      drain(SIZE_MAX);
      fin_sent_ = is_answered_ || fin_sent_;
      if (acknowledged_ <= sent_) {
        const uint32_t window =
            static_cast<uint32_t>(std::max(net::distance(acknowledged_, own_edge_), int32_t{1}));
        const uint32_t length = std::min({sent_ - acknowledged_, window, 60'000u});
        const bool is_last = fin_sent_ && acknowledged_ + length == sent_;
        inject(acknowledged_, length,
               static_cast<uint8_t>(net::tcp::kAck | (is_last ? net::tcp::kFin : 0)));
      } else {
        inject(sent_ + 1, 0, net::tcp::kAck);
      }
      // Most rounds need no time; where nothing moves, a timer must.
      if (round % 8 == 7) pass(700'000'000);
    }
    if (!broken_.empty()) return;
    if (!flow_->is_closed()) return fail("it does not finish");
    if (left_ != sent_) fail(fmt::format("{} of {} bytes left", left_, sent_));
    if (received_ != produced_ || !got_fin_)
      fail(fmt::format("the guest got {} of {} bytes", received_, produced_));
  }

  fuzz::FuzzInput& input_;
  const uint32_t guest_first_, own_first_;
  const bool is_large_;  // the guest takes segments that are cut
  const bool is_big_;
  const uint32_t guest_scale_;
  bool scales_ = false;
  std::string broken_;
  uint64_t now_ = 1'000'000'000;
  uint64_t passed_ns_ = 0;
  net::BufferBudget budget_;
  std::unique_ptr<net::TcpFlow> flow_;
  bool is_cut_ = false;

  // Positions: 0 is the first byte behind the SYN.
  uint32_t sent_ = 0;  // by the guest, honestly
  bool fin_sent_ = false;
  uint32_t acknowledged_ = 0;  // by the flow
  uint32_t own_edge_ = 0;      // the flow's window, as told
  bool is_exact_ = false;      // acknowledged_ is what the flow expects
  bool is_answered_ = false;   // the SYN
  uint32_t left_ = 0;          // delivered
  uint32_t received_ = 0;      // by the guest
  bool got_fin_ = false;
  uint16_t guest_window_ = 1000;
  uint32_t guest_edge_ = 0;  // the highest that was told
  uint32_t produced_ = 0;    // by the far side
  bool far_ended_ = false;
  bool is_joined_ = false;
  size_t sink_room_ = 0;
  size_t room_ = SIZE_MAX;
  size_t lost_ = 0;  // so many segments for the guest get lost
};

}  // namespace hutch::testing
