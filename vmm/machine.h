// Machine: one virtual machine: its parts as members in the order in which they are built.
//
// create() builds everything from descriptors and data; nothing is opened by name. release()
// narrows the process to its final system call tables and lets the guest run. From then on all
// calls are made on the loop's thread, which must run the loop until on_stopped.
#pragma once

#include <memory>
#include <vector>

#include "base/loop.h"
#include "boot/description.h"
#include "bus/bus.h"
#include "devices/console_buffer.h"
#include "devices/power.h"
#include "devices/serial.h"
#include "kvm/vcpu.h"
#include "memory/guest_memory.h"
#include "memory/register_pages.h"
#include "protocol/vmm.h"
#include "snapshot/state.h"
#include "virtio/block/block.h"
#include "virtio/block/layered.h"
#include "virtio/mmio.h"
#include "virtio/rng.h"
#include "virtio/vsock/vsock.h"
#include "vmm/guest_network.h"
#include "vmm/loop_thread.h"
#include "vmm/start_steps.h"
#include "vmm/vcpu_thread.h"

namespace hutch::vmm {

// What a machine tells its owner, on the loop's thread.
class MachineListener {
 public:
  virtual ~MachineListener() = default;
  virtual void on_mark(protocol::vmm::Mark mark) = 0;
  // After pause(): nothing of the machine moves.
  virtual void on_paused() = 0;
  // All vCPUs have stopped, for the first reason that came up. Last call.
  virtual void on_stopped(const Ending& ending) = 0;
};

// A VM that no machine is built in yet, and that knows nothing of one.
struct Shell {
  kvm::Kvm kvm;
  kvm::Vm vm;

  // `device`: an open /dev/kvm. Waits for the kernel, which nobody has to when it is done ahead.
  static Result<Shell> create(Fd device);
};

class Machine final : PowerEvents {
 public:
  // Takes the descriptors in `start`. `loop` and `listener` outlive the machine. Errors: a bad
  // kernel image or disk, too little host memory, a KVM that lacks something. `shell`: without one
  // it is made here, with `start.kvm`.
  // `page_map`: see open_page_map(); it outlives the machine. With `start.restore` the machine goes
  // on where the saved one stood; errors then also: a saved machine that is damaged, or of other
  // processors, memory or devices.
  static Result<std::unique_ptr<Machine>> create(protocol::vmm::Start start,
                                                 std::optional<Shell> shell, int page_map,
                                                 Loop& loop, MachineListener& listener);
  ~Machine() override;

  // Narrows this thread and every other one, then starts the guest. Once.
  Result<void> release();
  // Ends the machine for this reason unless it is ending already; on_stopped follows.
  void stop(Ending ending);
  // Stops the processors, then the devices; on_paused follows, unless the machine ends first.
  // Errors: it is paused already.
  Result<void> pause();
  // Lets a paused machine go on.
  Result<void> resume();
  // Writes a paused machine to files, and freezes its disks' deltas; what the guest has in flight
  // on networks is no part of it.
  Result<protocol::vmm::Saved> save(protocol::vmm::Save save);
  // Writes which pages a restored machine has written to (memory/written_pages.h).
  protocol::vmm::PagesRecorded record_pages(int file);
  // Opens a stream to a port of the guest; the descriptor is closed when the guest refuses.
  Result<void> connect(uint32_t guest_port, Fd stream);
  // Which hosts the guest may reach from now on. An error without a network.
  Result<void> set_policy(const protocol::vmm::Policy& policy);
  // Counters as of now.
  protocol::vmm::Report report() const;
  // The last lines of the serial console, control characters removed.
  std::string console_tail() const;

 private:
  // An interrupt line: an eventfd that KVM turns into an edge.
  class InterruptLine final : public Interrupt {
   public:
    explicit InterruptLine(EventFd event) : event_(std::move(event)) {}
    void raise() override { event_.signal(); }
    int fd() const { return event_.get(); }

   private:
    EventFd event_;
  };
  struct VirtioDevice {
    std::string name;
    std::unique_ptr<InterruptLine> line;
    std::unique_ptr<virtio::Device> device;
    std::unique_ptr<virtio::MmioTransport> transport;
  };

  Machine(GuestMemory memory, Shell shell, int page_map, Loop& loop, MachineListener& listener);
  Result<void> create_vcpus(std::span<const kvm_cpuid_entry2> cpuid, uint32_t count);
  Result<void> load(protocol::vmm::Start& start);
  Result<void> add_platform_devices(protocol::vmm::Start& start);
  Result<void> add_virtio_devices(protocol::vmm::Start& start);
  Result<std::unique_ptr<virtio::block::Backend>> open_disk(protocol::vmm::Disk& disk);
  Result<void> add_virtio(const char* name, std::unique_ptr<virtio::Device> device);
  Result<std::unique_ptr<InterruptLine>> add_interrupt(uint32_t pin);
  void flush_console_output();
  Result<void> watch_console_input();
  void read_console_input();
  void feed_console_input();
  void post_mark(protocol::vmm::MarkKind kind);
  // PowerEvents, on a vCPU's thread.
  void power_off() override;
  void reset() override;
  void panic(bool crash_kernel) override;
  void mark(uint8_t value) override;
  void on_vcpu_ended();
  void on_vcpu_paused();
  Result<void> freeze_disks(std::vector<protocol::vmm::FreezeDisk> files,
                            std::vector<protocol::vmm::DiskLayers>& layers);
  Result<snapshot::SavedMachine> save_state();
  Result<void> restore_state(const snapshot::SavedMachine& saved);
  Result<void> renew_generation_id();

  Loop& loop_;
  MachineListener& listener_;
  const int page_map_;
  StartSteps steps_;
  GuestMemory memory_;
  RegisterPages register_pages_;  // of the virtio devices; none: each read of one is an exit
  kvm::Kvm kvm_;
  kvm::Vm vm_;
  std::vector<kvm::Vcpu> vcpus_;         // until their threads own them
  std::vector<kvm_cpuid_entry2> cpuid_;  // of the first one
  Bus ports_{"port"};
  Bus mmio_{"mmio"};
  boot::MachineParts parts_;

  ConsoleBuffer console_;
  std::unique_ptr<InterruptLine> generation_line_;  // only of a restored machine
  std::unique_ptr<InterruptLine> serial_line_;
  std::unique_ptr<Serial> serial_;
  PowerRegister power_register_{*this};
  KeyboardController keyboard_controller_{*this};
  PanicNotifier panic_notifier_{*this};
  BootMark boot_mark_{*this};
  Fd console_input_;
  Watch console_watch_;
  Watch output_watch_;
  std::vector<uint8_t> waiting_input_;  // read, and not yet taken by the serial port

  std::unique_ptr<LoopThread> block_thread_;
  // By disk, owned by its device and used on the block thread only; null: the disk has no layers.
  std::vector<virtio::block::LayeredBackend*> layered_;
  std::unique_ptr<GuestNetwork> network_;
  virtio::Vsock* vsock_ = nullptr;  // owned by virtio_
  std::vector<VirtioDevice> virtio_;

  VcpuEnvironment environment_;
  std::vector<std::unique_ptr<VcpuThread>> threads_;
  size_t running_threads_ = 0;
  enum class Motion { kRunning, kPausing, kPaused };
  Motion motion_ = Motion::kRunning;
  size_t paused_threads_ = 0;
  bool is_stopping_ = false;
  Ending ending_;
  std::vector<protocol::vmm::Counter> counters_at_init_;
};

}  // namespace hutch::vmm
