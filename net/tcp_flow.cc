#include "net/tcp_flow.h"

#include <algorithm>
#include <cassert>

namespace hutch::net {
namespace {
// RFC 9293 section 3.7.1: without the option; and less than this costs more in headers than it
// carries.
constexpr uint16_t kDefaultMss = 536;
constexpr uint16_t kLeastMss = 88;
// 2^3 times 65535 is more than the ring has.
constexpr uint8_t kOwnScale = 3;
constexpr uint32_t kMaxWindowField = 65535;
static_assert((kMaxWindowField << kOwnScale) >= ByteRing::kMost);
// A payload that is shorter is cheaper to copy than to pass on with a system call of its own.
constexpr size_t kDirect = 4096;
constexpr uint32_t kDuplicates = 3;
// The first memory for bytes to the guest.
constexpr size_t kFirstRoom = 16 * 1024;

uint64_t ns(TcpFlow::Duration duration) {
  return static_cast<uint64_t>(duration.count());
}
}  // namespace

TcpFlow::TcpFlow(const TcpSegment& syn, const Parameters& parameters, BufferBudget& budget)
    : scales_(syn.window_scale.has_value()),
      mss_(parameters.mss),
      segment_size_(std::clamp(syn.mss.value_or(kDefaultMss), kLeastMss,
                               std::max(kLeastMss, parameters.mss))),
      initial_(parameters.initial_sequence),
      unacknowledged_(initial_),
      next_(initial_),
      highest_(initial_),
      window_(syn.window),
      largest_window_(syn.window),
      guest_scale_(syn.window_scale.value_or(0)),
      recover_(initial_),
      guest_initial_(syn.sequence),
      expected_(syn.sequence + 1),
      edge_(expected_),
      incoming_(budget),
      outgoing_(budget),
      began_ns_(parameters.now_ns),
      active_ns_(parameters.now_ns),
      heard_ns_(parameters.now_ns) {
  assert(syn.has(tcp::kSyn) && !syn.has(tcp::kAck) && !syn.has(tcp::kRst));
}

// --- From the guest ----------------------------------------------------------------------------

void TcpFlow::receive(const TcpSegment& segment, ByteSink* sink, uint64_t now_ns) {
  switch (state_) {
    case State::kOpening:
      receive_opening(segment);
      return;
    case State::kTimeWait:
      receive_time_wait(segment);
      return;
    case State::kReset:
    case State::kClosed:
      return;
    case State::kSynReceived:
    case State::kOpen:
      break;
  }
  heard_ns_ = now_ns;
  keep_alives_ = 0;
  if (segment.has(tcp::kRst)) {
    // RFC 5961 section 3.2: exactly at the expected place, or the guest is asked whether it means
    // it.
    const int32_t ahead = distance(expected_, segment.sequence);
    if (ahead == 0) {
      close(true);
    } else if (ahead > 0 && ahead < distance(expected_, edge_)) {
      challenge(now_ns);
    }
    return;
  }
  if (segment.has(tcp::kSyn)) {
    // The same SYN again: the answer may have got lost. Any other: RFC 5961 section 4.2.
    if (state_ == State::kSynReceived && !segment.has(tcp::kAck) &&
        segment.sequence == guest_initial_) {
      syn_ack_due_ = true;
    } else {
      challenge(now_ns);
    }
    return;
  }
  if (!segment.has(tcp::kAck)) return;
  if (!is_acceptable(segment)) {
    const bool is_keep_alive = segment.sequence == expected_ - 1 && segment.payload_size() <= 1;
    if (is_keep_alive) active_ns_ = now_ns;
    if (segment.length() > 0) {
      ack_due_ = true;
    } else {
      challenge(now_ns);
    }
    return;
  }
  if (!take_acknowledgement(segment, now_ns)) return;
  take_payload(segment, sink, now_ns);
}

// The far side is not there yet, so nothing has been answered.
void TcpFlow::receive_opening(const TcpSegment& segment) {
  if (segment.has(tcp::kRst)) {
    if (segment.sequence == expected_) close(true);
  } else if (segment.has(tcp::kSyn) && !segment.has(tcp::kAck) &&
             segment.sequence != guest_initial_) {
    // The guest has forgotten its first attempt. Its options count from the first SYN: the same
    // kernel chooses the same.
    guest_initial_ = segment.sequence;
    expected_ = edge_ = segment.sequence + 1;
  }
}

void TcpFlow::receive_time_wait(const TcpSegment& segment) {
  if (segment.has(tcp::kRst)) {
    if (segment.sequence == expected_ && incoming_.empty()) close(false);
  } else if (segment.length() > 0) {
    ack_due_ = true;  // the last acknowledgement may have got lost
  }
}

// RFC 9293 section 3.10.7.4, first step; a closed window still lets acknowledgements in.
bool TcpFlow::is_acceptable(const TcpSegment& segment) const {
  const int64_t start = distance(expected_, segment.sequence);
  if (start > distance(expected_, edge_)) return false;
  return segment.length() == 0 ? start >= 0 : start + segment.length() > 0;
}

// An answer to what cannot be right, which says what would be.
void TcpFlow::challenge(uint64_t now_ns) {
  if (challenged_ns_ != 0 && now_ns - challenged_ns_ < ns(kChallengeEvery)) return;
  challenged_ns_ = now_ns;
  ack_due_ = true;
}

// Whether the segment's bytes count.
bool TcpFlow::take_acknowledgement(const TcpSegment& segment, uint64_t now_ns) {
  const uint32_t acknowledgement = segment.acknowledgement;
  if (distance(highest_, acknowledgement) > 0) {  // of what was never sent
    challenge(now_ns);
    return false;
  }
  if (state_ == State::kSynReceived) {
    if (highest_ == initial_ || acknowledgement != initial_ + 1) {
      challenge(now_ns);
      return false;
    }
    state_ = State::kOpen;
    began_ns_ = active_ns_ = now_ns;
    unacknowledged_ = acknowledgement;
    recover_ = acknowledgement;
    repetitions_ = 0;
    repeat_ns_ = kNever;
    syn_ack_due_ = false;
    window_sequence_ = segment.sequence;
    window_acknowledgement_ = acknowledgement;
    window_ = static_cast<uint32_t>(segment.window) << guest_scale_;
    largest_window_ = std::max(largest_window_, window_);
    return true;
  }
  const bool advances = distance(unacknowledged_, acknowledgement) > 0;
  if (advances) {
    advance(acknowledgement, now_ns);
  } else if (acknowledgement == unacknowledged_) {
    count_duplicate(segment);
  }
  const int32_t newer = distance(window_sequence_, segment.sequence);
  if (advances || newer > 0 ||
      (newer == 0 && distance(window_acknowledgement_, acknowledgement) >= 0)) {
    const bool was_closed = window_ == 0;
    window_ = static_cast<uint32_t>(segment.window) << guest_scale_;
    largest_window_ = std::max(largest_window_, window_);
    window_sequence_ = segment.sequence;
    window_acknowledgement_ = acknowledgement;
    if (was_closed && window_ > 0 && repeat_ns_ != kNever) {
      repetitions_ = 0;
      arm(now_ns);
    }
  }
  finish_if_both_ended(false, now_ns);
  return state_ == State::kOpen;
}

void TcpFlow::advance(uint32_t acknowledgement, uint64_t now_ns) {
  uint32_t bytes = acknowledgement - unacknowledged_;
  if (fin_sent_ && !fin_acked_ && acknowledgement == fin_sequence() + 1) {
    fin_acked_ = true;
    bytes--;
  }
  outgoing_.consume(bytes);
  unacknowledged_ = acknowledgement;
  if (distance(next_, acknowledgement) > 0) next_ = acknowledgement;
  active_ns_ = now_ns;
  one_only_ = false;
  duplicates_ = 0;
  repetitions_ = 0;
  repeat_ns_ = kNever;
  if (has_unacknowledged()) arm(now_ns);
}

// RFC 5681 section 2 says what a duplicate is; section 3.2: the third one says that something is
// missing. All is sent again from there on, once.
void TcpFlow::count_duplicate(const TcpSegment& segment) {
  const uint32_t window = static_cast<uint32_t>(segment.window) << guest_scale_;
  if (!has_unacknowledged() || segment.length() > 0 || window != window_) return;
  if (++duplicates_ != kDuplicates || distance(recover_, unacknowledged_) < 0) return;
  recover_ = highest_;
  next_ = unacknowledged_;
}

void TcpFlow::take_payload(const TcpSegment& segment, ByteSink* sink, uint64_t now_ns) {
  if (segment.length() == 0) return;
  ack_due_ = true;
  const int32_t start = distance(expected_, segment.sequence);
  // Ahead of what is expected: dropped, and the acknowledgement says what is missing. After the
  // guest's FIN nothing can be new.
  if (start > 0 || guest_fin_ || ending_ == Ending::kReset) return;
  std::span<const std::byte> bytes = segment.payload[0];
  bool has_fin = segment.has(tcp::kFin);
  // What was taken before stays as it was taken.
  bytes = bytes.subspan(std::min(bytes.size(), static_cast<size_t>(-static_cast<int64_t>(start))));
  const size_t window = static_cast<size_t>(distance(expected_, edge_));
  const size_t taken = accept(bytes.first(std::min(bytes.size(), window)), sink);
  has_fin = has_fin && taken == bytes.size();
  expected_ += static_cast<uint32_t>(taken);
  if (taken > 0 || has_fin) active_ns_ = now_ns;
  if (!has_fin) return;
  expected_++;
  guest_fin_ = true;
  edge_ = expected_;
  finish_if_both_ended(true, now_ns);
}

// Returns how many of the bytes there was a place for.
size_t TcpFlow::accept(std::span<const std::byte> bytes, ByteSink* sink) {
  if (bytes.empty()) return 0;
  const bool may_pass = sink != nullptr && incoming_.empty();
  size_t taken = may_pass && bytes.size() >= kDirect ? sink->take(bytes) : 0;
  totals_.from_guest += taken;
  if (taken < bytes.size()) taken += incoming_.append(bytes.subspan(taken));
  return taken;
}

void TcpFlow::finish_if_both_ended(bool guest_was_last, uint64_t now_ns) {
  if (!guest_fin_ || !fin_acked_) return;
  if (!guest_was_last && incoming_.empty()) {
    close(false);
    return;
  }
  state_ = State::kTimeWait;
  began_ns_ = now_ns;
  outgoing_.clear();
}

void TcpFlow::close(bool was_cut) {
  state_ = State::kClosed;
  was_cut_ = was_cut;
  incoming_.clear();
  outgoing_.clear();
}

// --- To the guest ------------------------------------------------------------------------------

bool TcpFlow::flush(SegmentSender& sender, uint64_t now_ns) {
  switch (state_) {
    case State::kOpening:
    case State::kClosed:
      return true;
    case State::kReset:
      return send_reset(sender);
    case State::kSynReceived:
      if (syn_ack_due_) return send_syn_ack(sender, now_ns);
      return !ack_due_ || send(sender, {.sequence = next_});
    case State::kTimeWait:
      return !ack_due_ || send(sender, {.sequence = next_});
    case State::kOpen:
      return flush_open(sender, now_ns);
  }
  return true;
}

bool TcpFlow::flush_open(SegmentSender& sender, uint64_t now_ns) {
  if (!send_data(sender, now_ns) || !send_fin(sender, now_ns)) return false;
  if (ending_ == Ending::kReset && !has_unsent_bytes()) return send_reset(sender);
  const bool has_unsent = has_unsent_bytes() || (ending_ == Ending::kFin && !fin_sent_);
  // The window is closed, and only the guest could say that it opens.
  if (has_unsent && !has_unacknowledged() && repeat_ns_ == kNever) arm(now_ns);
  if (probe_due_) {
    // RFC 9293 section 3.8.4: before the window, so that it must be answered.
    if (!send(sender, {.sequence = unacknowledged_ - 1})) return false;
    probe_due_ = false;
  }
  if (ack_due_ || is_window_update_due()) return send(sender, {.sequence = next_});
  return true;
}

bool TcpFlow::send(SegmentSender& sender, TcpSegment segment) {
  const uint32_t edge = window_edge();
  const uint32_t window = edge - expected_;
  const bool scales = scales_ && !segment.has(tcp::kSyn);
  segment.acknowledgement = expected_;
  segment.flags |= tcp::kAck;
  segment.window =
      static_cast<uint16_t>(std::min(scales ? window >> kOwnScale : window, kMaxWindowField));
  if (!sender.send(segment, segment_size_)) return false;
  edge_ = edge;
  ack_due_ = false;
  return true;
}

bool TcpFlow::send_syn_ack(SegmentSender& sender, uint64_t now_ns) {
  TcpSegment segment{.sequence = initial_, .flags = tcp::kSyn, .mss = mss_};
  if (scales_) segment.window_scale = kOwnScale;
  if (!send(sender, segment)) return false;
  syn_ack_due_ = false;
  next_ = initial_;
  sent(1, now_ns);
  return true;
}

// In the place where the guest expects the next byte; before it has seen a SYN, as an answer to
// its own.
bool TcpFlow::send_reset(SegmentSender& sender) {
  if (!send(sender, {.sequence = highest_, .flags = tcp::kRst})) return false;
  close(true);
  return true;
}

std::optional<TcpSegment> TcpFlow::parting_reset() const {
  if (state_ == State::kTimeWait || state_ == State::kClosed) return std::nullopt;
  return TcpSegment{
      .sequence = highest_, .acknowledgement = expected_, .flags = tcp::kRst | tcp::kAck};
}

bool TcpFlow::send_data(SegmentSender& sender, uint64_t now_ns) {
  while (has_unsent_bytes()) {
    const uint32_t offset = next_ - unacknowledged_;
    if (one_only_ && offset > 0) break;
    const size_t unsent = outgoing_.size() - offset;
    const int64_t usable = usable_window();
    if (usable <= 0) break;
    const size_t count =
        std::min({unsent, static_cast<size_t>(usable), sender.max_payload(segment_size_)});
    // RFC 9293 section 3.8.6.2.1: no silly little segments because a window opens a little.
    if (count < unsent && count < segment_size_ && count < largest_window_ / 2 && offset > 0) break;
    const bool is_last = count == unsent;
    const bool has_fin = is_last && ending_ == Ending::kFin && usable > static_cast<int64_t>(count);
    TcpSegment segment{.sequence = next_, .payload = outgoing_.bytes(offset, count)};
    if (is_last) segment.flags |= tcp::kPsh;
    if (has_fin) segment.flags |= tcp::kFin;
    if (!send(sender, segment)) return false;
    fin_sent_ |= has_fin;
    sent(segment.length(), now_ns);
  }
  return true;
}

bool TcpFlow::send_fin(SegmentSender& sender, uint64_t now_ns) {
  if (ending_ != Ending::kFin || fin_acked_ || next_ != fin_sequence() || usable_window() <= 0 ||
      (one_only_ && next_ != unacknowledged_))
    return true;
  if (!send(sender, {.sequence = next_, .flags = tcp::kFin})) return false;
  fin_sent_ = true;
  sent(1, now_ns);
  return true;
}

void TcpFlow::sent(uint32_t length, uint64_t now_ns) {
  next_ += length;
  if (distance(highest_, next_) > 0) highest_ = next_;
  if (repeat_ns_ == kNever) arm(now_ns);
}

// How many bytes from next_ on the guest has room for; negative when it has taken room back.
int64_t TcpFlow::usable_window() const {
  return static_cast<int64_t>(window_) - (next_ - unacknowledged_);
}

uint32_t TcpFlow::window_limit() const {
  return is_joined_ ? static_cast<uint32_t>(ByteRing::kMost)
                    : static_cast<uint32_t>(kMaxClassified);
}

// Where the window ends that could be told now.
uint32_t TcpFlow::window_edge() const {
  if (guest_fin_) return edge_;
  const size_t limit = std::min<size_t>(window_limit(), incoming_.potential());
  uint32_t window = static_cast<uint32_t>(limit > incoming_.size() ? limit - incoming_.size() : 0);
  if (scales_ && state_ != State::kSynReceived) {
    window &= ~((1u << kOwnScale) - 1);
  } else {
    window = std::min(window, kMaxWindowField);
  }
  const uint32_t edge = expected_ + window;
  return distance(edge_, edge) > 0 ? edge : edge_;
}

// A window that has opened is told in steps: often enough that the guest need not wait, seldom
// enough to cost little.
bool TcpFlow::is_window_update_due() const {
  const uint32_t most = scales_ ? window_limit() : std::min(window_limit(), kMaxWindowField);
  return distance(edge_, window_edge()) >= static_cast<int32_t>(most / 4);
}

// --- The far side ------------------------------------------------------------------------------

void TcpFlow::connected(uint64_t now_ns) {
  if (state_ != State::kOpening) return;
  state_ = State::kSynReceived;
  began_ns_ = now_ns;
  syn_ack_due_ = true;
}

void TcpFlow::joined(uint64_t now_ns) {
  is_joined_ = true;
  active_ns_ = now_ns;
}

void TcpFlow::abort(uint64_t now_ns) {
  if (state_ == State::kReset || state_ == State::kClosed) return;
  if (state_ == State::kTimeWait) {
    close(true);
    return;
  }
  state_ = State::kReset;
  began_ns_ = now_ns;
  was_cut_ = true;
  incoming_.clear();
  outgoing_.clear();
}

void TcpFlow::consumed(size_t count, uint64_t now_ns) {
  incoming_.consume(count);
  totals_.from_guest += count;
  active_ns_ = now_ns;
}

std::array<std::span<std::byte>, 2> TcpFlow::outgoing_room() {
  if (ending_ != Ending::kNone || (state_ != State::kSynReceived && state_ != State::kOpen))
    return {};
  if (outgoing_.capacity() == 0) outgoing_.make_room(kFirstRoom);
  auto is_little = [this] {
    return (outgoing_.capacity() - outgoing_.size()) * 4 < outgoing_.capacity();
  };
  // A flow that fills its memory gets more.
  if (is_little()) outgoing_.make_room(outgoing_.capacity() - outgoing_.size() + 1);
  if (is_little()) return {};
  return outgoing_.room();
}

void TcpFlow::produced(size_t count, uint64_t now_ns) {
  outgoing_.produced(count);
  totals_.to_guest += count;
  active_ns_ = now_ns;
}

void TcpFlow::end(Ending ending, uint64_t now_ns) {
  if (ending_ == Ending::kFin && ending == Ending::kReset) abort(now_ns);
  if (ending_ != Ending::kNone) return;
  ending_ = ending;
  active_ns_ = now_ns;
}

// --- Time --------------------------------------------------------------------------------------

void TcpFlow::arm(uint64_t now_ns) {
  const Duration timeout = kFirstTimeout * (int64_t{1} << std::min(repetitions_, 10u));
  repeat_ns_ = now_ns + ns(std::min(timeout, kLongestTimeout));
}

uint64_t TcpFlow::idle_deadline() const {
  return active_ns_ + ns(kIdleLimit);
}

uint64_t TcpFlow::keep_alive_deadline() const {
  const Duration after = is_half_closed() ? kHalfClosedKeepAliveAfter : kKeepAliveAfter;
  return heard_ns_ + ns(after) + keep_alives_ * ns(kKeepAliveEvery);
}

bool TcpFlow::holds_idle_memory() const {
  return (incoming_.empty() && incoming_.capacity() > 0) ||
         (outgoing_.empty() && outgoing_.capacity() > 0);
}

uint64_t TcpFlow::memory_deadline() const {
  return holds_idle_memory() ? active_ns_ + ns(kMemoryKept) : kNever;
}

uint64_t TcpFlow::deadline() const {
  switch (state_) {
    case State::kOpening:
      return began_ns_ + ns(kOpeningLimit);
    case State::kSynReceived:
      return std::min(began_ns_ + ns(kSynAckLimit), repeat_ns_);
    case State::kOpen: {
      const uint64_t joined = is_joined_ ? kNever : began_ns_ + ns(kJoinLimit);
      return std::min(
          {repeat_ns_, joined, idle_deadline(), keep_alive_deadline(), memory_deadline()});
    }
    case State::kTimeWait:
      return incoming_.empty() ? began_ns_ + ns(kTimeWait) : idle_deadline();
    case State::kReset:
      return began_ns_ + ns(kResetLimit);
    case State::kClosed:
      break;
  }
  return kNever;
}

void TcpFlow::on_timer(uint64_t now_ns) {
  if (now_ns < deadline()) return;
  switch (state_) {
    case State::kOpening:
      abort(now_ns);
      return;
    case State::kSynReceived:
      if (now_ns >= began_ns_ + ns(kSynAckLimit)) {
        abort(now_ns);
      } else {
        repetitions_++;
        syn_ack_due_ = true;
        arm(now_ns);
      }
      return;
    case State::kOpen:
      break;
    case State::kTimeWait:
      close(!incoming_.empty());
      return;
    case State::kReset:
      close(true);
      return;
    case State::kClosed:
      return;
  }
  if ((!is_joined_ && now_ns >= began_ns_ + ns(kJoinLimit)) || now_ns >= idle_deadline()) {
    abort(now_ns);
    return;
  }
  if (now_ns >= memory_deadline()) {
    if (incoming_.empty()) incoming_.clear();
    if (outgoing_.empty()) outgoing_.clear();
  }
  if (now_ns >= keep_alive_deadline()) {
    if (keep_alives_ == kKeepAlives) {
      abort(now_ns);
      return;
    }
    keep_alives_++;
    probe_due_ = true;
  }
  if (now_ns >= repeat_ns_) repeat(now_ns);
}

void TcpFlow::repeat(uint64_t now_ns) {
  // A guest that answers lives, though its window may stay closed for long.
  if (repetitions_ >= kRepetitions && now_ns - heard_ns_ > 2 * ns(kLongestTimeout)) {
    abort(now_ns);
    return;
  }
  repetitions_++;
  if (window_ == 0 || !has_unacknowledged()) {
    probe_due_ = true;
  } else {
    recover_ = highest_;
    next_ = unacknowledged_;
    one_only_ = true;
  }
  arm(now_ns);
}

}  // namespace hutch::net
