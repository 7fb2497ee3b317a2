// GuestNetwork: the guest's network device and all behind it, on a thread of its own: frames, the
// gateway that ends TCP (net/), names by the policy, and the broker who connects.
//
// All functions on the machine's thread.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "base/token_bucket.h"
#include "net/backend.h"
#include "net/names.h"
#include "protocol/vmm.h"
#include "snapshot/state.h"
#include "virtio/net/net.h"
#include "vmm/broker_client.h"
#include "vmm/loop_thread.h"

namespace hutch::vmm {

class GuestNetwork {
 public:
  // Takes the socket to the broker. Errors: a policy that is none, a host without room.
  static Result<std::unique_ptr<GuestNetwork>> start(protocol::vmm::Network network);
  // The device must have been given back by then, see disconnect().
  ~GuestNetwork();
  GuestNetwork(const GuestNetwork&) = delete;
  GuestNetwork& operator=(const GuestNetwork&) = delete;

  // The device, once: whoever takes it calls disconnect() before it goes.
  std::unique_ptr<virtio::Device> take_device();
  // Ends all flows. The device goes nowhere after this.
  void disconnect();
  Result<void> check_narrow() { return thread_->check_narrow(); }

  // From now on this is the policy: flows that it does not allow are reset before this returns.
  Result<void> set_policy(const protocol::vmm::Policy& policy);
  void add_to(std::vector<protocol::vmm::Counter>& counters) const;
  // The addresses that stand for names, and of connections what it takes to reset them: none
  // outlives a restore. To be called before the guest runs.
  snapshot::SavedNetwork save();
  Result<void> restore(const snapshot::SavedNetwork& saved);

 private:
  // The device's far side for as long as it lives: the backend while there is one.
  class FarSide final : public FrameReceiver {
   public:
    std::unique_ptr<net::Backend> backend;

   private:
    void on_frame(std::span<const std::byte> frame, const FrameOffload& offload) override {
      if (backend) backend->on_frame(frame, offload);
    }
    void on_batch_end() override {
      if (backend) backend->on_batch_end();
    }
    void on_room() override {
      if (backend) backend->on_room();
    }
  };

  GuestNetwork(std::unique_ptr<LoopThread> thread, policy::Policy policy, bool ipv6, Fd broker);

  void on_denied(const net::FlowTarget& target);

  std::unique_ptr<LoopThread> thread_;
  std::unique_ptr<virtio::Net> given_;  // until it is taken
  virtio::Net* device_;
  // Belong to the thread's loop:
  // A guest that is refused asks again and again; the log wants to know of each thing once.
  struct DeniedBefore {
    net::FlowTarget target;
    uint64_t time_ns = 0;
  };
  std::deque<DeniedBefore> denied_before_;
  TokenBucket denials_{100, 5};
  net::Names names_;
  std::unique_ptr<BrokerClient> broker_;
  FarSide far_side_;
};

}  // namespace hutch::vmm
