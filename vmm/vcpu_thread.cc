#include "vmm/vcpu_thread.h"

#include <signal.h>

#include <array>

#include "vmm/instruction.h"

namespace hutch::vmm {
namespace {

using protocol::vmm::EndReason;

constexpr int kWaiting = 0, kRunning = 1, kStopping = 2, kPausing = 3, kPaused = 4;
constexpr size_t kThreadStack = 256 * 1024;
constexpr const char* kForeignHostRemedy =
    "this host's KVM cannot run ordinary kernels; use the emulated machine: hutch machine start";

// Only interrupts KVM_RUN; the work is done after it returns.
void ignore_signal(int) {}

int kick_signal() {
  return SIGRTMIN;
}

}  // namespace

Result<std::unique_ptr<VcpuThread>> VcpuThread::start(kvm::Vcpu vcpu, uint32_t index,
                                                      VcpuEnvironment& environment) {
  struct sigaction action {};
  action.sa_handler = ignore_signal;
  if (::sigaction(kick_signal(), &action, nullptr) < 0)
    return fail_errno(errno, "installing the signal that interrupts vCPUs");
  std::unique_ptr<VcpuThread> self(new VcpuThread(std::move(vcpu), index, environment));
  pthread_attr_t attributes;
  ::pthread_attr_init(&attributes);
  ::pthread_attr_setstacksize(&attributes, kThreadStack);
  int status = ::pthread_create(&self->thread_, &attributes, entry, self.get());
  ::pthread_attr_destroy(&attributes);
  if (status != 0) return fail_errno(status, fmt::format("starting the thread of vCPU {}", index));
  self->joinable_ = true;
  return self;
}

VcpuThread::VcpuThread(kvm::Vcpu vcpu, uint32_t index, VcpuEnvironment& environment)
    : vcpu_(std::move(vcpu)), index_(index), environment_(environment) {}

VcpuThread::~VcpuThread() {
  request_stop();
  join();
}

void VcpuThread::release() {
  int waiting = kWaiting;
  if (state_.compare_exchange_strong(waiting, kRunning)) state_.notify_all();
}

void VcpuThread::request_pause() {
  int running = kRunning;
  if (!state_.compare_exchange_strong(running, kPausing)) return;
  vcpu_.request_exit();
  ::pthread_kill(thread_, kick_signal());
}

void VcpuThread::resume() {
  int paused = kPaused;
  if (state_.compare_exchange_strong(paused, kRunning)) state_.notify_all();
}

void VcpuThread::request_stop() {
  state_.store(kStopping);
  state_.notify_all();
  if (!joinable_) return;
  vcpu_.request_exit();
  ::pthread_kill(thread_, kick_signal());
}

void VcpuThread::join() {
  if (!joinable_) return;
  ::pthread_join(thread_, nullptr);
  joinable_ = false;
}

void* VcpuThread::entry(void* self) {
  auto* thread = static_cast<VcpuThread*>(self);
  thread->run();
  thread->environment_.on_thread_end();
  return nullptr;
}

void VcpuThread::run() {
  state_.wait(kWaiting);
  if (state_.load() == kStopping) return;
  if (Result<void> narrowed = environment_.narrow(); !narrowed)
    return end(EndReason::kHostError, narrowed.error().message, narrowed.error().remedy);
  if (index_ == 0) environment_.on_first_run();
  for (;;) {
    int state = state_.load(std::memory_order_acquire);
    if (state == kPausing && !stand_still()) return;
    if (state == kPausing) continue;
    if (state != kRunning) return;
    Result<kvm::VcpuExit> exit = vcpu_.run();
    if (!exit) return end(EndReason::kHostError, exit.error().message, exit.error().remedy);
    if (!handle(*exit)) return;
    if (index_ == 0 && environment_.uses_pic) {
      Result<void> checked = vcpu_.check_interrupts();
      if (!checked) return end(EndReason::kHostError, checked.error().message);
    }
  }
}

// Whether to go on.
bool VcpuThread::stand_still() {
  for (;;) {
    Result<kvm::VcpuExit> exit = vcpu_.complete_exit();
    if (!exit) {
      end(EndReason::kHostError, exit.error().message, exit.error().remedy);
      return false;
    }
    if (std::holds_alternative<kvm::InterruptedExit>(*exit)) break;
    if (!handle(*exit)) return false;
  }
  int pausing = kPausing;
  if (!state_.compare_exchange_strong(pausing, kPaused)) return true;
  environment_.on_paused();
  state_.wait(kPaused);
  // Before the state is looked at again: a request that comes from now on stays.
  vcpu_.clear_exit_request();
  return true;
}

bool VcpuThread::handle(kvm::VcpuExit& exit) {
  if (std::holds_alternative<kvm::InterruptedExit>(exit)) return true;
  if (index_ == 0 && !seen_exit_) {
    seen_exit_ = true;
    environment_.on_first_exit();
  }
  if (auto* port = std::get_if<kvm::PortExit>(&exit)) return handle_port(*port);
  if (auto* mmio = std::get_if<kvm::MmioExit>(&exit)) return handle_mmio(*mmio);
  counters_.count(ExitCounters::Kind::kOther, exit.index());
  if (std::holds_alternative<kvm::ShutdownExit>(exit)) {
    end(EndReason::kTripleFault,
        fmt::format("vCPU {} of the guest shut down after a triple fault", index_));
  } else if (auto* internal = std::get_if<kvm::InternalErrorExit>(&exit)) {
    end_internal_error(*internal);
  } else if (auto* entry = std::get_if<kvm::FailedEntryExit>(&exit)) {
    end(EndReason::kInternalError,
        fmt::format("the processor refused to enter the guest (hardware reason {:#x})",
                    entry->hardware_reason),
        "run hutch doctor");
  } else if (auto* event = std::get_if<kvm::SystemEventExit>(&exit)) {
    end(EndReason::kInternalError, fmt::format("KVM reported system event {}", event->type));
  } else if (auto* unknown = std::get_if<kvm::UnknownExit>(&exit)) {
    end(EndReason::kInternalError,
        fmt::format("KVM left the guest for unknown reason {}", unknown->reason));
  } else {
    end(EndReason::kInternalError, "the guest halted without an interrupt controller");
  }
  return false;
}

bool VcpuThread::handle_port(kvm::PortExit& exit) {
  counters_.count(ExitCounters::Kind::kPort, exit.port);
  // A string instruction moves many items in one exit; each is an access of its own.
  for (size_t at = 0; at + exit.size <= exit.data.size(); at += exit.size) {
    std::span<uint8_t> item = exit.data.subspan(at, exit.size);
    if (exit.is_write) {
      environment_.ports.write(exit.port, item);
    } else {
      environment_.ports.read(exit.port, item);
    }
  }
  return true;
}

bool VcpuThread::handle_mmio(kvm::MmioExit& exit) {
  counters_.count(ExitCounters::Kind::kMmio, exit.address);
  if (exit.is_write) {
    environment_.mmio.write(exit.address, exit.data);
  } else {
    environment_.mmio.read(exit.address, exit.data);
  }
  return true;
}

void VcpuThread::end(EndReason reason, std::string message, std::string remedy) {
  environment_.on_end(Ending{reason, std::move(message), std::move(remedy)});
}

void VcpuThread::end_internal_error(const kvm::InternalErrorExit& exit) {
  std::vector<uint8_t> bytes = exit.instruction;
  uint64_t address = 0;
  if (Result<kvm_regs> registers = vcpu_.registers()) {
    address = registers->rip;
    if (bytes.empty()) {
      // Up to 15 bytes, but not across the end of the page, which may be mapped elsewhere.
      std::array<uint8_t, 15> code{};
      size_t size = std::min<uint64_t>(code.size(), 4096 - address % 4096);
      Result<GuestAddress> physical = vcpu_.translate(address);
      if (physical && environment_.memory.read_bytes(
                          *physical, std::as_writable_bytes(std::span(code.data(), size))))
        bytes.assign(code.begin(), code.begin() + static_cast<ptrdiff_t>(size));
    }
  }
  bool is_emulation = exit.suberror == KVM_INTERNAL_ERROR_EMULATION;
  end(EndReason::kInternalError,
      is_emulation ? fmt::format("KVM cannot run {} at {:#x} of the guest kernel",
                                 describe_instruction(bytes), address)
                   : fmt::format("KVM_INTERNAL_ERROR {} at {:#x}, before {}", exit.suberror,
                                 address, describe_instruction(bytes)),
      kForeignHostRemedy);
}

}  // namespace hutch::vmm
