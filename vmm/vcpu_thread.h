// VcpuThread: one vCPU and the thread that runs it.
//
// The loop is: run the guest, turn the exit into bus accesses, run again. How the guest ends
// (triple fault, KVM's own failure) is posted once; devices report the rest themselves.
#pragma once

#include <pthread.h>

#include <atomic>
#include <functional>
#include <memory>

#include "bus/bus.h"
#include "kvm/vcpu.h"
#include "memory/guest_memory.h"
#include "vmm/exit_counters.h"

namespace hutch::vmm {

// How a machine ended, before the console's tail and the counters are added.
struct Ending {
  protocol::vmm::EndReason reason{};
  std::string message;
  std::string remedy;
};

// What a vCPU thread needs of its machine; outlives the thread.
struct VcpuEnvironment {
  const GuestMemory& memory;
  Bus& ports;
  Bus& mmio;
  // Whether the guest may get its interrupts through the PIC: see
  // Vcpu::check_interrupts.
  bool uses_pic = false;
  // Called on the vCPU's thread once it runs and has not entered the guest; narrows it for good.
  std::function<Result<void>()> narrow;
  // Called just before the first KVM_RUN, by the first vCPU only.
  std::function<void()> on_first_run;
  // Called after the first exit to user space, by the first vCPU only.
  std::function<void()> on_first_exit;
  // The guest cannot go on. Any vCPU thread; more than one may call.
  std::function<void(Ending)> on_end;
  // The thread stands still after request_pause(), until resume() or request_stop().
  std::function<void()> on_paused;
  // The thread has left its loop, for whatever reason, and touches nothing any more. Last call.
  std::function<void()> on_thread_end;
};

class VcpuThread {
 public:
  // Starts the thread; it waits until release(). `index` 0 is the boot processor.
  static Result<std::unique_ptr<VcpuThread>> start(kvm::Vcpu vcpu, uint32_t index,
                                                   VcpuEnvironment& environment);
  ~VcpuThread();  // stops and joins

  // Lets the thread narrow itself and run the guest.
  void release();
  // Makes the thread leave the guest and stand still; on_paused follows, unless it ends. Once it
  // has been released, and not while it is paused. Any thread.
  void request_pause();
  // Lets a thread that is paused go on.
  void resume();
  // Makes the thread leave the guest and end; does not wait. Any thread.
  void request_stop();
  // Waits for the end of the thread. After request_stop.
  void join();

  const ExitCounters& counters() const { return counters_; }
  const kvm::Vcpu& vcpu() const { return vcpu_; }

 private:
  VcpuThread(kvm::Vcpu vcpu, uint32_t index, VcpuEnvironment& environment);
  static void* entry(void* self);
  void run();
  // Whether to run on.
  bool handle(kvm::VcpuExit& exit);
  bool stand_still();
  bool handle_port(kvm::PortExit& exit);
  bool handle_mmio(kvm::MmioExit& exit);
  void end(protocol::vmm::EndReason reason, std::string message, std::string remedy = {});
  void end_internal_error(const kvm::InternalErrorExit& exit);

  kvm::Vcpu vcpu_;
  const uint32_t index_;
  VcpuEnvironment& environment_;
  ExitCounters counters_;
  pthread_t thread_{};
  bool joinable_ = false;
  bool seen_exit_ = false;
  // 0 waiting, 1 running, 2 stopping, 3 pausing, 4 paused; a futex word through std::atomic::wait.
  std::atomic<int> state_{0};
};

}  // namespace hutch::vmm
