// Vm: one VMM process as its launcher sees it.
//
// It starts the process, opens what the guest gets and passes it on, and turns the messages of the
// VMM protocol and the end of the process into events. The VMM may have been taken over by its
// guest: its messages are decoded within bounds and its process is killed when it does not end.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lib/agent_connection.h"
#include "lib/broker_process.h"
#include "lib/event.h"
#include "lib/layer_file.h"
#include "lib/poller.h"
#include "lib/shell.h"
#include "lib/spawn.h"
#include "protocol/vmm.h"

namespace hutch::lib {

struct VmDisk {
  std::string path;
  Fd file;  // used instead of `path` when open
  bool read_only = false;
  std::string id;
  bool layered = false;
  std::vector<Fd> layers;  // frozen, over the file, from below
};

struct SavedFiles {
  std::string memory_path, state_path;
  Fd memory, state;  // used instead of the paths when open
  Fd pages;          // optional
  protocol::vmm::SavedKey key{};
  bool adopt_service = false;
  std::vector<std::string> service_environment;
};

struct VmOptions {
  uint32_t cpus = 1;
  uint64_t memory = 256ull << 20;  // bytes
  std::string kernel;
  std::string initramfs;
  std::string command_line;
  protocol::vmm::Description description = protocol::vmm::Description::kAuto;
  bool pit = false;
  bool entropy_device = false;
  std::vector<VmDisk> disks;
  std::string scratch_directory;
  bool agent = true;
  uint64_t agent_timeout_ns = 60'000'000'000;
  std::string host_name;
  int console_output = -1, console_input = -1, log = -1;  // borrowed during start()
  std::string vmm_path;  // empty: hutch-vmm beside the running executable
  std::string kvm_path;
  bool end_with_thread = false;
  // Used instead of a new process while its own is alive; what it was started with holds instead of
  // the four above.
  std::optional<Shell> shell;
  std::optional<NetworkOptions> network;
  std::optional<SavedFiles> restore;
};

class Vm {
 public:
  static Result<std::unique_ptr<Vm>> start(VmOptions options);
  ~Vm();
  Vm(const Vm&) = delete;
  Vm& operator=(const Vm&) = delete;

  int event_fd() const { return poller_.get(); }
  // Does what is due; the next event, or null.
  std::unique_ptr<Event> next_event();
  // Null without an agent.
  AgentConnection* agent() { return agent_.get(); }
  Result<void> query();
  // Which hosts the guest may reach from now on. An error without a network.
  Result<void> set_policy(const protocol::vmm::Policy& policy);
  // Each an error when the machine has ended; what comes of it is an event.
  Result<void> pause();
  Result<void> resume();
  Result<void> save(Fd memory, Fd state, const protocol::vmm::SavedKey& key);
  Result<void> record_pages(Fd file);
  // The frozen layers of a disk, from below; borrowed until the next event is taken.
  Result<std::span<const int>> disk_layers(size_t index) const;
  Result<void> stop();
  pid_t process_id() const { return child_.process_id; }
  // Whether a shell was there for it.
  bool was_prepared() const { return was_prepared_; }

 private:
  Vm(Poller poller, VmOptions options);
  Result<void> launch();
  Result<protocol::vmm::Disk> open_disk(VmDisk& disk);
  Result<protocol::vmm::Network> launch_broker();
  Result<protocol::vmm::Restore> open_saved();
  Result<void> send(const protocol::vmm::Packet& packet);
  void pump();
  void receive_control();
  Result<void> handle_message(std::span<const std::byte> bytes);
  void handle_mark(const protocol::vmm::Mark& mark);
  Result<void> handle_saved(const protocol::vmm::Saved& saved);
  void check_deadlines();
  void check_agent();
  void expect_exit();
  void collect_exit();
  void finish(int status_code, int status);
  void update_deadline();

  // Why the machine was ended from here, which its own last message cannot know.
  struct Verdict {
    int reason = 0;
    std::string message, remedy;
  };

  // What a disk consists of besides the base; nothing here can write.
  struct Layers {
    bool is_layered = false;
    std::vector<Fd> frozen;
    std::vector<int> numbers;  // of `frozen`
    Fd top, next;              // of the private one, and of the one that will be while it is saved
  };

  Poller poller_;
  VmOptions options_;
  Child child_;
  std::unique_ptr<BrokerProcess> broker_;
  Fd control_;
  std::shared_ptr<AgentConnection> agent_;
  std::vector<Layers> layers_;  // by disk
  bool was_prepared_ = false;
  bool is_saving_ = false;
  EventQueue events_;
  std::optional<protocol::vmm::Ended> ended_;
  std::optional<Verdict> verdict_;
  bool finished_ = false;
  bool agent_lost_ = false;      // AGENT_LOST was given
  uint64_t agent_deadline_ = 0;  // each in nanoseconds of CLOCK_MONOTONIC; 0: none
  uint64_t lost_deadline_ = 0;   // the agent is gone; the end of the machine may explain it
  uint64_t exit_deadline_ = 0;   // the process is killed then
};

}  // namespace hutch::lib
