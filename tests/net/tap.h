// Tap: a device of frames whose guest is a Linux TCP stack: the other end of a tap interface
// (Linux: Documentation/networking/tuntap.rst), with its offloads. For tests and benchmarks of net/
// without a machine.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/frames.h"
#include "base/loop.h"
#include "base/result.h"

namespace hutch::testing {

class Tap final : public FrameSender {
 public:
  // Makes the interface in the caller's network namespace, with the guest's addresses, a route to
  // the gateway, and up; with `ipv6` those of version 6, too. It vanishes with the Tap.
  static Result<std::unique_ptr<Tap>> create(const std::string& name, bool ipv6 = false);
  // Gives the receiver what the interface sends, on the loop; both must outlive it.
  Result<void> attach(Loop& loop, FrameReceiver& receiver);

  Abilities abilities() const override { return {.checksum = true, .tcp4 = true, .tcp6 = true}; }
  bool send(std::span<const std::span<const std::byte>> pieces,
            const FrameOffload& offload) override;
  void flush() override {}

  // System calls so far.
  uint64_t reads() const { return reads_; }
  uint64_t writes() const { return writes_; }
  // Frames that the interface did not take.
  uint64_t drops() const { return drops_; }

 private:
  explicit Tap(Fd fd);
  void on_readable();

  Fd fd_;
  FrameReceiver* receiver_ = nullptr;
  std::vector<std::byte> buffer_;
  uint64_t reads_ = 0;
  uint64_t writes_ = 0;
  uint64_t drops_ = 0;
  Watch watch_;
};

// Brings an interface of the caller's network namespace up.
Result<void> bring_up(const std::string& interface);
// Puts the calling thread (of a process that has no others yet, unless it is root's) into a network
// namespace of its own, with its loopback interface up.
Result<void> enter_new_network();

}  // namespace hutch::testing
