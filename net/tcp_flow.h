// TcpFlow: ends one TCP connection of the guest (RFC 9293, RFC 5961, RFC 7323 section 2), as a
// state machine: segments in, segments out, bytes in, bytes out. No sockets, no addresses, and the
// time comes with each call.
//
//   kOpening --connected()--> kSynReceived --the guest's ACK--> kOpen --+--> kTimeWait --> kClosed
//      |                           |                              |     |
//      +--------- abort() ---------+------------------------------+     +--> kClosed
//      v
//   kReset --the RST is sent--> kClosed
//
// It knows one kind of peer: a kernel at the other end of a link that loses nothing, or hardly
// anything. So it takes bytes in order only, and drops what lies ahead (the guest sends it again);
// has no congestion window; and repeats after three duplicate acknowledgements or a simple timeout.
// A byte that has been taken never changes: a repetition with other bytes is cut off at the front.
// Urgent pointers are ignored. Everything in a segment is guest-controlled.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

#include "net/byte_ring.h"
#include "net/flow_opener.h"
#include "net/tcp_segment.h"

namespace hutch::net {

// Where the guest's bytes go.
class ByteSink {
 public:
  virtual ~ByteSink() = default;
  // Takes what it can of `bytes` at once; returns how much.
  virtual size_t take(std::span<const std::byte> bytes) = 0;
};

// Where segments for the guest go.
class SegmentSender {
 public:
  virtual ~SegmentSender() = default;
  // The payload that one call may have, at least `segment_size`: more than that is cut on the way
  // into segments of that size.
  virtual size_t max_payload(uint16_t segment_size) const = 0;
  // False: there is no room now, and nothing was sent.
  virtual bool send(const TcpSegment& segment, uint16_t segment_size) = 0;
};

class TcpFlow {
 public:
  using Duration = std::chrono::nanoseconds;
  // Limits, all with their tests.
  static constexpr Duration kOpeningLimit = std::chrono::seconds(120);  // of the far side
  static constexpr Duration kSynAckLimit = std::chrono::seconds(10);    // of the guest's answer
  static constexpr Duration kJoinLimit = std::chrono::seconds(60);      // until joined()
  static constexpr Duration kIdleLimit = std::chrono::hours(2);
  static constexpr Duration kTimeWait = std::chrono::seconds(2);
  static constexpr Duration kResetLimit = std::chrono::seconds(60);  // until there is room for it
  // When a silent guest is asked whether it still has the connection. Half-closed, an application
  // may wait for as long as the other one thinks (Linux sets no limit); but a kernel whose
  // application has gone meanwhile keeps the connection for a minute (tcp(7), tcp_fin_timeout) and
  // answers with a reset from then on: it is asked earlier.
  static constexpr Duration kKeepAliveAfter = std::chrono::hours(1);
  static constexpr Duration kHalfClosedKeepAliveAfter = std::chrono::seconds(70);
  static constexpr Duration kKeepAliveEvery = std::chrono::seconds(60);
  static constexpr uint32_t kKeepAlives = 5;
  static constexpr Duration kFirstTimeout = std::chrono::milliseconds(500);
  static constexpr Duration kLongestTimeout = std::chrono::seconds(30);
  static constexpr uint32_t kRepetitions = 10;
  static constexpr Duration kMemoryKept = std::chrono::seconds(1);  // while it holds nothing
  // An answer to a segment that is none of the flow's, not more often than this: two peers that
  // disagree would answer each other for ever.
  static constexpr Duration kChallengeEvery = std::chrono::milliseconds(5);

  static constexpr uint64_t kNever = std::numeric_limits<uint64_t>::max();

  enum class State : uint8_t { kOpening, kSynReceived, kOpen, kTimeWait, kReset, kClosed };
  // How the bytes for the guest end.
  enum class Ending : uint8_t { kNone, kFin, kReset };

  struct Parameters {
    uint32_t initial_sequence = 0;  // unpredictable
    uint16_t mss = 1460;            // what a segment for either side may carry
    uint64_t now_ns = 0;
  };

  // `syn` has the flag SYN and no other of FIN, RST and ACK. The bytes in it are ignored.
  TcpFlow(const TcpSegment& syn, const Parameters& parameters, BufferBudget& budget);

  // --- The guest's side -------------------------------------------------------------------------

  // Takes a segment. Its bytes, if they are next in order, go to `sink` (null: nobody takes them
  // yet) or are held.
  void receive(const TcpSegment& segment, ByteSink* sink, uint64_t now_ns);
  // Sends what is due. False: there was no room for all of it; to be called again when there is.
  bool flush(SegmentSender& sender, uint64_t now_ns);
  // When on_timer() wants to be called; kNever.
  uint64_t deadline() const;
  void on_timer(uint64_t now_ns);

  // --- The far side's side ----------------------------------------------------------------------

  // It is reachable.
  void connected(uint64_t now_ns);
  // Somebody takes the guest's bytes from now on. Until then, at most kMaxClassified are held.
  void joined(uint64_t now_ns);
  // Resets the connection; bytes of both directions are dropped.
  void abort(uint64_t now_ns);

  // Bytes from the guest that are held.
  Pieces incoming() const { return incoming_.bytes(); }
  size_t incoming_size() const { return incoming_.size(); }
  void consumed(size_t count, uint64_t now_ns);
  // The guest has ended its direction.
  bool guest_has_ended() const { return guest_fin_; }
  // And all its bytes have been taken.
  bool guest_is_drained() const { return guest_fin_ && incoming_.empty(); }

  // Room for bytes to the guest; all empty while filling so little would not be worth a system
  // call. Then produced().
  std::array<std::span<std::byte>, 2> outgoing_room();
  void produced(size_t count, uint64_t now_ns);
  // There will be no more bytes; the first call counts.
  void end(Ending ending, uint64_t now_ns);
  Ending ending() const { return ending_; }

  State state() const { return state_; }
  bool is_closed() const { return state_ == State::kClosed; }
  // Established, and neither over nor reset.
  bool is_open() const { return state_ == State::kOpen; }
  // It did not end in order, both ways: the guest, the far side or a limit cut it.
  bool was_cut() const { return was_cut_; }
  // The reset that the guest would take now; nothing when it knows of no connection.
  std::optional<TcpSegment> parting_reset() const;
  // Bytes that have passed so far.
  const FlowTotals& totals() const { return totals_; }
  // Memory that it holds, in bytes.
  size_t memory() const { return incoming_.capacity() + outgoing_.capacity(); }

 private:
  void receive_opening(const TcpSegment& segment);
  void receive_time_wait(const TcpSegment& segment);
  bool is_acceptable(const TcpSegment& segment) const;
  bool take_acknowledgement(const TcpSegment& segment, uint64_t now_ns);
  void advance(uint32_t acknowledgement, uint64_t now_ns);
  void count_duplicate(const TcpSegment& segment);
  void challenge(uint64_t now_ns);
  void take_payload(const TcpSegment& segment, ByteSink* sink, uint64_t now_ns);
  size_t accept(std::span<const std::byte> bytes, ByteSink* sink);
  void finish_if_both_ended(bool guest_was_last, uint64_t now_ns);
  void close(bool was_cut);
  void repeat(uint64_t now_ns);

  bool send(SegmentSender& sender, TcpSegment segment);
  bool send_syn_ack(SegmentSender& sender, uint64_t now_ns);
  bool send_reset(SegmentSender& sender);
  bool send_data(SegmentSender& sender, uint64_t now_ns);
  bool send_fin(SegmentSender& sender, uint64_t now_ns);
  bool flush_open(SegmentSender& sender, uint64_t now_ns);
  void sent(uint32_t length, uint64_t now_ns);
  void arm(uint64_t now_ns);

  uint32_t window_limit() const;
  uint32_t window_edge() const;
  int64_t usable_window() const;
  bool is_window_update_due() const;
  bool has_unsent() const;
  bool has_unacknowledged() const { return distance(unacknowledged_, highest_) > 0; }
  bool has_unsent_bytes() const { return next_ - unacknowledged_ < outgoing_.size(); }
  bool is_half_closed() const { return guest_fin_ || ending_ != Ending::kNone; }
  bool holds_idle_memory() const;
  // Of the FIN, once there is one: behind the last byte.
  uint32_t fin_sequence() const {
    return unacknowledged_ + static_cast<uint32_t>(outgoing_.size());
  }
  uint64_t idle_deadline() const;
  uint64_t keep_alive_deadline() const;
  uint64_t memory_deadline() const;

  State state_ = State::kOpening;
  Ending ending_ = Ending::kNone;
  bool guest_fin_ = false;  // received, with all before it
  bool fin_sent_ = false;   // at least once
  bool fin_acked_ = false;
  bool is_joined_ = false;
  bool was_cut_ = false;
  bool ack_due_ = false;
  bool syn_ack_due_ = false;
  bool probe_due_ = false;
  bool one_only_ = false;        // after a timeout: a single segment until it is acknowledged
  const bool scales_;            // both sides do
  const uint16_t mss_;           // ours, as told
  const uint16_t segment_size_;  // of what is sent

  // To the guest (RFC 9293 section 3.3.1: SND).
  const uint32_t initial_;               // ISS
  uint32_t unacknowledged_;              // SND.UNA: of the first byte in outgoing_
  uint32_t next_;                        // SND.NXT
  uint32_t highest_;                     // the highest SND.NXT so far
  uint32_t window_ = 0;                  // SND.WND; guest-controlled
  uint32_t largest_window_ = 0;          // so far
  uint32_t window_sequence_ = 0;         // SND.WL1
  uint32_t window_acknowledgement_ = 0;  // SND.WL2
  const uint8_t guest_scale_;
  uint32_t recover_;  // repeated up to here; duplicates before it mean nothing
  uint32_t duplicates_ = 0;

  // From the guest (RCV).
  uint32_t guest_initial_;  // IRS
  uint32_t expected_;       // RCV.NXT
  uint32_t edge_;           // RCV.NXT + RCV.WND, as told: never goes back

  ByteRing incoming_;
  ByteRing outgoing_;
  FlowTotals totals_;

  uint64_t began_ns_;            // the state
  uint64_t active_ns_;           // last a byte moved
  uint64_t heard_ns_;            // last a segment came
  uint64_t repeat_ns_ = kNever;  // the timer of repetition, or of the closed window's probes
  uint32_t repetitions_ = 0;
  uint64_t challenged_ns_ = 0;
  uint32_t keep_alives_ = 0;  // sent since something was heard
};

}  // namespace hutch::net
