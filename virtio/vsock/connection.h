// Connection: one vsock stream as a state machine (virtio 1.2 section 5.10.6), without sockets.
//
//   kRequested --RESPONSE--> kEstablished --RST after SHUTDOWN, bytes held--> kLingering
//
// and from each of them to its end: RST from the guest, a broken rule (an RST to the guest), both
// directions shut by the guest and all its bytes forwarded (an RST to the guest, which waits for
// it), or, lingering, all its bytes forwarded.
//
// It decides what a packet of the guest means, counts credit both ways, and holds the bytes that
// the host's stream has not taken yet: at most kBufferSize, which is what the guest is told. Bytes
// for the guest are never held here. Belongs to one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "virtio/vsock/packet.h"

namespace hutch::virtio::vsock {

class Connection {
 public:
  static constexpr uint32_t kBufferSize = 256 * 1024;

  enum class Verdict {
    kGoOn,     // nothing to do but what the queries below say
    kPayload,  // the packet's payload belongs to the stream: forward it or extend() the buffer
    kBroken,   // the guest broke a rule: answer with RST and drop the connection
    kEnded,    // the guest reset it: drop it, without an answer
  };

  // The guest opened it with `request`; a RESPONSE is due.
  static Connection accepted(const Packet& request);
  // The host opens it; a REQUEST is due.
  static Connection requested();

  // Takes a packet that the guest sent on this connection; all of it is guest-controlled.
  Verdict receive(const Packet& packet);

  // Guest to host. Payload goes to the stream, in order, or here while the stream takes no more;
  // there is always room for the payload of a packet that was judged kPayload.
  // Returns where to put `count` more bytes.
  std::span<std::byte> extend(size_t count);
  std::span<const std::byte> buffered() const;
  // `count` bytes of payload have reached the stream: they came from the buffer's front, or, when
  // `direct`, from a packet without having been in the buffer.
  void forwarded(size_t count, bool direct);
  // The stream's reader is gone: what the guest still sends is dropped, and it is told.
  void reader_gone();
  bool is_reader_gone() const { return reader_gone_; }
  // The guest will send no more, and all it sent has been forwarded.
  bool guest_is_drained() const { return guest_done_sending_ && buffered().empty(); }

  // Host to guest. How many bytes the guest has room for now; 0 also when it wants none.
  uint32_t credit() const;
  // `count` bytes, at most credit(), have been put into a packet.
  void sent(uint32_t count) { sent_ += count; }
  // The stream has bytes but credit() is 0: the guest is asked, once.
  void starved();
  // The stream has ended: the guest is told.
  void writer_gone();
  bool is_writer_gone() const { return writer_gone_; }
  bool guest_is_done_receiving() const { return guest_done_receiving_; }

  // The next packet without payload that is due, with operation and flags; nothing when none is.
  // After an RST the connection has ended.
  std::optional<Packet> next_control();
  bool has_control() const { return due_ != 0 || is_finished(); }
  // Puts this side's credit into a packet that goes to the guest.
  void stamp(Packet& packet);

  bool is_established() const { return state_ == State::kEstablished; }
  // The guest has forgotten the connection, in order, before the stream took all its bytes.
  bool is_lingering() const { return state_ == State::kLingering; }

 private:
  enum class State { kRequested, kEstablished, kLingering };
  enum Due : uint8_t {
    kRequest = 1,
    kResponse = 2,
    kShutdown = 4,
    kCreditUpdate = 8,
    kCreditRequest = 16,
  };

  explicit Connection(State state, uint8_t due) : state_(state), due_(due) {}
  bool update_peer_credit(const Packet& packet);
  bool is_finished() const {
    return is_established() && guest_done_receiving_ && guest_is_drained();
  }
  void count_forwarded(size_t count);

  State state_;
  uint8_t due_;
  bool guest_done_sending_ = false;
  bool guest_done_receiving_ = false;
  bool reader_gone_ = false;
  bool writer_gone_ = false;

  // Free-running counters of section 5.10.6.3, modulo 2^32.
  uint32_t forwarded_ = 0;        // bytes from the guest that the stream has taken
  uint32_t told_forwarded_ = 0;   // forwarded_ as the guest knows it
  uint32_t sent_ = 0;             // bytes put into packets for the guest
  uint32_t peer_forwarded_ = 0;   // of those, consumed by the guest; guest-controlled
  uint32_t peer_allocation_ = 0;  // the guest's buffer; guest-controlled
  bool credit_requested_ = false;

  std::vector<std::byte> buffer_;
  size_t buffer_start_ = 0;
};

}  // namespace hutch::virtio::vsock
