// FlowOpener: who opens the far side of a flow, and decides whether it may be. The network's side
// knows neither sockets' addresses nor who connects them.
//
// All calls both ways are made on the network's loop.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "base/fd.h"
#include "base/ip_address.h"

namespace hutch::net {

// Where the guest wants to.
struct FlowTarget {
  std::string name;   // that the address was handed out for; empty: the guest dialled a literal
  IpAddress address;  // that the guest dialled
  uint16_t port = 0;  // guest-controlled, not 0
};

struct OpenCallbacks {
  // The far side is reachable: the guest's connection is accepted. Once at most.
  std::function<void()> connected;
  // From now on bytes are read from and written to `stream`, a stream socket, without ever waiting
  // for it; the guest's first `consumed` bytes (of those that classify() was given) have been
  // passed on already. Once at most; without `connected` before, it means that too.
  std::function<void(Fd stream, size_t consumed)> ready;
  // There is no flow, or no more: the guest's connection is reset. At any time, also after `ready`;
  // the last call.
  std::function<void()> refused;
};

// What a flow carried.
struct FlowTotals {
  uint64_t from_guest = 0;  // bytes that somebody took
  uint64_t to_guest = 0;    // bytes that were there for it, whether it took them or not

  friend bool operator==(const FlowTotals&, const FlowTotals&) = default;
};

// A flow that is being opened, or open. Dropping it ends the far side's interest in it: nothing is
// called any more. It is kept until the flow has ended, and may be dropped by any of the callbacks
// before they return.
class FlowHandle {
 public:
  virtual ~FlowHandle() = default;
  // Between `connected` and `ready`: all bytes that the guest has sent so far, guest-controlled, at
  // most kMaxClassified; once for each time that there are more. The answer is `ready`, `refused`,
  // or nothing: more is needed. It may be given from inside this call.
  virtual void classify(std::span<const std::byte> all_so_far) = 0;
  // Between `connected` and `ready`, once, behind the last classify(): the guest has ended its
  // direction, there will be no more bytes.
  virtual void said_all() {}
  // The flow has ended, however it did; the last call, after which this object is dropped.
  virtual void ended(const FlowTotals& totals) = 0;
};

// The guest can send this much before somebody must know what to do with it.
inline constexpr size_t kMaxClassified = 65535;

class FlowOpener {
 public:
  virtual ~FlowOpener() = default;
  // Begins to open a flow. The callbacks come later, never from inside this call. Never null.
  virtual std::unique_ptr<FlowHandle> open(const FlowTarget& target, OpenCallbacks callbacks) = 0;
};

}  // namespace hutch::net
