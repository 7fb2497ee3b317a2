// The broker protocol: what one hutch-vmm and its hutch-broker say to each other, about connections
// that the guest wants to make.
//
// One Unix SOCK_SEQPACKET socket; each message is one packet: a type byte, the flow's number, and
// the fields below. A descriptor travels with Ready. The VMM opens nothing by itself, and a VMM
// that its guest has taken over can say no more than this; the broker decides as if it were so.
//
//   hutch-vmm                                  hutch-broker
//   Open            ->
//                   <-  Connected              the far side is reachable
//   First (bytes)   ->                         the guest's first bytes, as they come; none: the
//                                              guest has ended its direction, no more will come
//                   <-  Ready + descriptor     the connection itself; without Connected before,
//                                              where nothing had to be seen first
//   Close           ->                         the flow has ended; its number may come again
//   Denied          ->                         for the log: the VMM has refused by itself
//
//                   <-  Refused                instead of any answer, and at any time after Ready:
//                                              the policy has changed
//
// A flow's number is the VMM's choice. After Refused and until Close it names nothing. A First may
// cross Ready: its bytes are not passed on, the VMM has them still.
//
// The broker's launcher says what applies, on a socket of its own of the same kind, which is the
// descriptor named on the broker's command line: Configure with two descriptors, first of all; then
// Policy whenever it changes. The broker ends with that socket.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace hutch::protocol::broker {

constexpr size_t kMaxMessage = 128 * 1024;
constexpr size_t kMaxFlows = 1024;
constexpr size_t kMaxFirst = 65535;  // bytes that may be sent before a verdict

enum class MessageType : uint8_t {
  kOpen = 1,
  kFirst = 2,
  kClose = 3,
  kDenied = 4,
  kConnected = 65,
  kReady = 66,
  kRefused = 67,
  kConfigure = 129,
  kPolicy = 130,
};

struct Open {
  uint32_t flow = 0;
  std::string name;     // canonical; empty: the address counts
  std::string address;  // what the guest dialled, as text; of a name's it says nothing
  uint16_t port = 0;    // not 0
};
// More of what the guest has sent, behind what went before.
struct First {
  uint32_t flow = 0;
  std::span<const std::byte> bytes;  // in the packet
};
struct Close {
  uint32_t flow = 0;
  uint64_t sent = 0;      // bytes from the guest, as the VMM counts them
  uint64_t received = 0;  // and to it
};
// What the guest asked for and the VMM's own policy refused: a lookup of a name (port 0), or a
// connection to an address that stands for no name.
struct Denied {
  std::string name;     // canonical
  std::string address;  // where there is no name
  uint16_t port = 0;
};
struct Connected {
  uint32_t flow = 0;
};
struct Ready {
  uint32_t flow = 0;
  uint32_t consumed = 0;  // of the guest's first bytes: the broker has passed them on
};
enum class Reason : uint8_t {
  kPolicy = 1,         // no rule allows it
  kNotResolved = 2,    // the name has no address
  kFloor = 3,          // it has, but none that a sandbox may reach
  kNotReachable = 4,   // nothing answered
  kProtocol = 5,       // what was spoken names another host, or none
  kLimit = 6,          // too many flows, or the broker has no descriptors left
  kPolicyChanged = 7,  // it is not allowed any more
};
struct Refused {
  uint32_t flow = 0;
  Reason reason{};
};

// Which hosts may be reached (policy/policy.h reads the patterns).
struct Policy {
  bool allows_all = false;
  std::vector<std::string> patterns;
};
struct Configure {
  Policy policy;
  std::vector<std::string> opened;   // blocks below the floor that the operator opens
  bool ipv6 = false;                 // names may lead to addresses of version 6, too
  std::vector<std::string> servers;  // DNS servers, with or without :port; none: the host's
  Fd vmm;                            // SOCK_SEQPACKET
  Fd log;                            // the event log, open for reading and appending; optional
  uint64_t log_limit = 0;            // its most bytes; 0: none. At the limit all connections end
};

// The word for a reason, for logs and counters: "policy", "floor", ...
const char* name(Reason reason);

std::vector<std::byte> encode(const Open& message);
std::vector<std::byte> encode(const First& message);
std::vector<std::byte> encode(const Close& message);
std::vector<std::byte> encode(const Denied& message);
std::vector<std::byte> encode(const Connected& message);
std::vector<std::byte> encode(const Ready& message);
std::vector<std::byte> encode(const Refused& message);
std::vector<std::byte> encode(const Policy& message);
// Without its descriptors, which travel in their order.
std::vector<std::byte> encode(const Configure& message);

// The type of a received packet; an error when it is empty or unknown.
Result<MessageType> type_of(std::span<const std::byte> bytes);
// Each takes the whole packet; T is one of the messages above.
template <typename T>
Result<T> decode(std::span<const std::byte> bytes) = delete;
template <>
Result<Open> decode(std::span<const std::byte> bytes);
template <>
Result<First> decode(std::span<const std::byte> bytes);
template <>
Result<Close> decode(std::span<const std::byte> bytes);
template <>
Result<Denied> decode(std::span<const std::byte> bytes);
template <>
Result<Connected> decode(std::span<const std::byte> bytes);
template <>
Result<Ready> decode(std::span<const std::byte> bytes);
template <>
Result<Refused> decode(std::span<const std::byte> bytes);
template <>
Result<Policy> decode(std::span<const std::byte> bytes);
Result<Configure> decode_configure(std::span<const std::byte> bytes, std::vector<Fd> fds);

}  // namespace hutch::protocol::broker
