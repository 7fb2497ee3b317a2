#include "vmm/machine.h"

#include <poll.h>
#include <unistd.h>

#include <array>

#include "base/log.h"
#include "base/sys.h"
#include "boot/kernel.h"
#include "boot/layout.h"
#include "boot/x86_params.h"
#include "memory/written_pages.h"
#include "protocol/agent.h"
#include "virtio/block/file.h"
#include "virtio/spec.h"
#include "vmm/layered_disk.h"
#include "vmm/saved_machine.h"
#include "vmm/seccomp.h"
#include "vmm/vcpu_setup.h"

namespace hutch::vmm {
namespace {

using protocol::vmm::Description;
using protocol::vmm::EndReason;
using protocol::vmm::MarkKind;

constexpr uint64_t kGuestCid = 3;
constexpr size_t kConsoleTailLines = 12;
constexpr size_t kMaxPageList = 64 << 10;
// How long the console's reader may take for what waits at the end.
constexpr int kLastWordsTries = 100, kLastWordsTryMs = 10;

// A kernel that calls itself ours gets a device tree; the others would not read it.
bool uses_device_tree(Description description, const boot::LoadedKernel& kernel) {
  if (description == Description::kAuto) return kernel.takes_device_tree;
  return description == Description::kDeviceTree;
}

Result<void> bring_in_pages(const GuestMemory& memory, int list) {
  std::vector<std::byte> file(TRY(file_size(list)));
  if (file.size() > kMaxPageList) return fail(fmt::format("it has {} bytes", file.size()));
  TRY(read_exactly_at(list, file, 0));
  bring_in(memory, TRY(decode_pieces(file, memory.size() / boot::kPageSize)));
  return {};
}

// As many as add_virtio_devices() adds.
size_t virtio_device_count(const protocol::vmm::Start& start) {
  return start.disks.size() + 1 + (start.entropy_device ? 1 : 0) + (start.network ? 1 : 0);
}

static_assert(boot::kMmioSlotSize == virtio::MmioTransport::kSize &&
              boot::kMmioSlotSize == RegisterPages::kPageSize);

}  // namespace

Result<Shell> Shell::create(Fd device) {
  kvm::Kvm kvm = TRY(kvm::Kvm::create(std::move(device)));
  kvm::Vm vm = TRY(kvm::Vm::create(kvm));
  return Shell{std::move(kvm), std::move(vm)};
}

Result<std::unique_ptr<Machine>> Machine::create(protocol::vmm::Start start,
                                                 std::optional<Shell> shell, int page_map,
                                                 Loop& loop, MachineListener& listener) {
  StartSteps steps;
  if (!shell) shell = TRY(Shell::create(std::move(start.kvm)));
  steps.done("create_vm");
  std::vector<GuestRange> ranges = boot::memory_ranges(start.memory);
  std::vector<kvm_cpuid_entry2> cpuid = TRY(machine_cpuid(shell->kvm, start.cpus));
  steps.done("cpuid");
  std::optional<snapshot::SavedMachine> saved;
  if (start.restore) {
    saved = TRY_CONTEXT("the saved machine",
                        read_saved(*start.restore, start, vcpu_cpuid(cpuid, 0, start.cpus)));
    steps.done("saved_state");
  }
  GuestMemory memory = TRY(saved ? GuestMemory::create(ranges, std::move(start.restore->memory))
                                 : GuestMemory::create(ranges));
  steps.done("memory");
  if (saved && start.restore->pages) {
    TRY_CONTEXT("the list of pages", bring_in_pages(memory, start.restore->pages.get()));
    steps.done("pages");
  }

  std::unique_ptr<Machine> self(
      new Machine(std::move(memory), *std::move(shell), page_map, loop, listener));
  self->steps_ = std::move(steps);
  // Memory first: a slot that follows the interrupt controllers waits for a grace period.
  uint32_t slot = 0;
  for (const GuestMemory::Region& region : self->memory_.regions()) {
    TRY(self->vm_.set_memory_slot(slot++, region));
    if (slot == 1) self->steps_.done("first_memory_slot");
  }
  if (self->kvm_.capability(KVM_CAP_READONLY_MEM) > 0) {
    self->register_pages_ = TRY(RegisterPages::create(virtio_device_count(start)));
    TRY(self->vm_.set_read_only_slot(slot++, boot::kVirtioMmio, self->register_pages_.all()));
  }
  TRY(self->vm_.set_identity_map_address(boot::kIdentityMap));
  TRY(self->vm_.set_tss_address(boot::kTaskStateSegment));
  self->steps_.done("fixed_pages");
  TRY(self->vm_.create_interrupt_controllers());
  self->steps_.done("interrupt_controllers");
  TRY(self->create_vcpus(cpuid, start.cpus));
  self->steps_.done("vcpus");
  TRY(self->add_platform_devices(start));
  TRY(self->add_virtio_devices(start));
  self->steps_.done("devices");
  if (saved) {
    TRY_CONTEXT("the saved machine", self->restore_state(*saved));
    self->steps_.done("restore");
  } else {
    TRY(self->load(start));
    self->steps_.done("load");
  }
  for (uint32_t index = 0; index < start.cpus; index++)
    self->threads_.push_back(
        TRY(VcpuThread::start(std::move(self->vcpus_[index]), index, self->environment_)));
  self->vcpus_.clear();
  self->steps_.done("threads");
  return self;
}

Machine::Machine(GuestMemory memory, Shell shell, int page_map, Loop& loop,
                 MachineListener& listener)
    : loop_(loop),
      listener_(listener),
      page_map_(page_map),
      memory_(std::move(memory)),
      kvm_(std::move(shell.kvm)),
      vm_(std::move(shell.vm)),
      environment_{
          .memory = memory_,
          .ports = ports_,
          .mmio = mmio_,
          .narrow = [] { return install_seccomp(ThreadKind::kVcpu); },
          .on_first_run = [this] { post_mark(MarkKind::kFirstRun); },
          .on_first_exit = [this] { post_mark(MarkKind::kKernel); },
          .on_end = [this](Ending ending) { loop_.post([this, ending] { stop(ending); }); },
          .on_paused = [this] { loop_.post([this] { on_vcpu_paused(); }); },
          .on_thread_end = [this] { loop_.post([this] { on_vcpu_ended(); }); },
      } {}

Machine::~Machine() {
  // The device outlives what it speaks to, and goes with the others.
  if (network_) network_->disconnect();
}

Result<void> Machine::create_vcpus(std::span<const kvm_cpuid_entry2> cpuid, uint32_t count) {
  cpuid_ = vcpu_cpuid({cpuid.begin(), cpuid.end()}, 0, count);
  for (uint32_t index = 0; index < count; index++) {
    kvm::Vcpu vcpu = TRY(kvm::Vcpu::create(kvm_, vm_, index));
    TRY(set_up_vcpu(vcpu, cpuid, index, count));
    // Old hosts do not count; the report is then shorter.
    if (Result<void> opened = vcpu.open_statistics(); !opened)
      log_debug("{}", opened.error().text());
    vcpus_.push_back(std::move(vcpu));
  }
  parts_.cpus = count;
  return {};
}

Result<void> Machine::load(protocol::vmm::Start& start) {
  uint64_t low_end = boot::generation_id_page(start.memory).value();
  uint64_t high_start = boot::kHighMemoryStart.value();
  GuestRange window{boot::kHighMemoryStart, low_end - high_start};
  boot::LoadedKernel kernel =
      TRY_CONTEXT("loading the kernel", boot::load_kernel(memory_, start.kernel.get(), window));

  boot::BootInput input;
  input.memory_size = start.memory;
  input.command_line = start.command_line;
  if (start.initramfs) {
    uint64_t kernel_end = (kernel.end.value() + boot::kPageSize - 1) & ~(boot::kPageSize - 1);
    if (kernel_end > low_end) return fail("the kernel fills all of the memory");
    GuestRange rest{GuestAddress(kernel_end), low_end - kernel_end};
    input.initramfs = TRY_CONTEXT("loading the initramfs",
                                  boot::load_initramfs(memory_, start.initramfs.get(), rest));
  }
  input.random_seed.resize(64);
  TRY(fill_random(input.random_seed));
  TRY(renew_generation_id());

  kvm::Vcpu& first = vcpus_.front();
  if (uses_device_tree(start.description, kernel)) {
    if (start.pit) TRY(vm_.create_pit());
    input.device_tree = TRY(boot::device_tree(parts_));
    return set_entry(first, TRY(boot::prepare_linux64(memory_, kernel, input)));
  }
  // Other kernels may look for a PIT, or need it where they cannot read MP tables.
  TRY(vm_.create_pit());
  // Without MP tables Linux opens the local APIC's pin for the PIC with the PIT running, and may
  // lose a tick (Vcpu::check_interrupts).
  environment_.uses_pic = true;
  TRY(boot::write_mp_table(memory_, parts_));
  for (kvm::Vcpu& vcpu : vcpus_) TRY(set_virtual_wire(vcpu));
  input.command_line += boot::virtio_command_line(parts_);
  // A PVH kernel takes its setup from the start information alone; a bzImage brings a header.
  return set_entry(first, kernel.pvh_entry ? TRY(boot::prepare_pvh(memory_, kernel, input))
                                           : TRY(boot::prepare_linux64(memory_, kernel, input)));
}

Result<std::unique_ptr<Machine::InterruptLine>> Machine::add_interrupt(uint32_t pin) {
  auto line = std::make_unique<InterruptLine>(TRY(EventFd::create()));
  TRY(vm_.add_irqfd(pin, line->fd()));
  return line;
}

Result<void> Machine::add_platform_devices(protocol::vmm::Start& start) {
  parts_.generation_id = boot::generation_id_page(start.memory);
  parts_.has_console = start.console_output.is_open() || start.console_input.is_open();
  if (start.console_output)
    console_.pass_on_to(std::move(start.console_output), ConsoleBuffer::kDefaultBytesPerSecond,
                        [this] { loop_.post([this] { flush_console_output(); }); });
  serial_line_ = TRY(add_interrupt(boot::kSerialInterrupt));
  serial_ = std::make_unique<Serial>(*serial_line_, console_,
                                     [this] { loop_.post([this] { feed_console_input(); }); });

  // The serial port is one device at two places: kernels with a device tree cannot use ports.
  TRY(ports_.add(boot::kSerialPort, Serial::kSize, *serial_));
  TRY(mmio_.add(boot::kSerialMmio.value(), Serial::kSize, *serial_));
  TRY(ports_.add(KeyboardController::kPort, KeyboardController::kSize, keyboard_controller_));
  TRY(ports_.add(protocol::agent::kBootMarkPort, BootMark::kSize, boot_mark_));
  TRY(mmio_.add(boot::kPowerMmio.value(), PowerRegister::kSize, power_register_));
  TRY(mmio_.add(boot::kPanicMmio.value(), PanicNotifier::kSize, panic_notifier_));
  console_input_ = std::move(start.console_input);
  return watch_console_input();
}

void Machine::flush_console_output() {
  bool done = console_.flush();
  if (done || output_watch_.is_active()) {
    if (done) output_watch_.reset();
    return;
  }
  Result<Watch> watch =
      loop_.watch(console_.output(), EPOLLOUT, [this](uint32_t) { flush_console_output(); });
  if (!watch) return log_error("console output: {}", watch.error().text());
  output_watch_ = *std::move(watch);
}

Result<void> Machine::watch_console_input() {
  if (!console_input_) return {};
  TRY(set_nonblocking(console_input_.get()));
  console_watch_ =
      TRY(loop_.watch(console_input_.get(), EPOLLIN, [this](uint32_t) { read_console_input(); }));
  return {};
}

void Machine::read_console_input() {
  // With input waiting only a hang-up comes here, which nothing but the end of the watch silences.
  if (!waiting_input_.empty()) return console_watch_.reset();
  std::array<uint8_t, 1024> bytes;
  ssize_t count = ::read(console_input_.get(), bytes.data(), bytes.size());
  if (count > 0) {
    waiting_input_.assign(bytes.begin(), bytes.begin() + count);
    feed_console_input();
  } else if (count == 0 || (errno != EAGAIN && errno != EINTR)) {
    console_watch_.reset();
    console_input_.reset();
  }
}

void Machine::feed_console_input() {
  if (!console_input_) return;
  size_t taken = serial_->receive(waiting_input_);
  waiting_input_.erase(waiting_input_.begin(),
                       waiting_input_.begin() + static_cast<ptrdiff_t>(taken));
  // Reads no more than the guest takes; the rest waits where it comes from.
  if (!console_watch_.is_active()) {
    if (waiting_input_.empty()) read_console_input();
    return;
  }
  Result<void> modified =
      loop_.modify(console_watch_, waiting_input_.empty() ? uint32_t{EPOLLIN} : 0u);
  if (!modified) log_error("console input: {}", modified.error().text());
}

Result<std::unique_ptr<virtio::block::Backend>> Machine::open_disk(protocol::vmm::Disk& disk) {
  if (!disk.delta) {
    layered_.push_back(nullptr);
    return TRY(virtio::block::FileBackend::create(std::move(disk.file)));
  }
  auto backend = TRY(open_layered(std::move(disk)));
  layered_.push_back(backend.get());
  return backend;
}

Result<void> Machine::add_virtio_devices(protocol::vmm::Start& start) {
  if (!start.disks.empty()) block_thread_ = TRY(LoopThread::start(ThreadKind::kBlock));
  for (protocol::vmm::Disk& disk : start.disks) {
    std::string what = fmt::format("disk {}", disk.id);
    auto backend = TRY_CONTEXT(what, open_disk(disk));
    TRY(add_virtio("disk",
                   std::make_unique<virtio::Block>(block_thread_->loop(), std::move(backend),
                                                   virtio::BlockOptions{disk.read_only, disk.id})));
  }
  auto vsock = std::make_unique<virtio::Vsock>(loop_, kGuestCid);
  vsock_ = vsock.get();
  if (start.restore) vsock_->announce_reset();
  if (start.agent)
    vsock_->offer(protocol::agent::kHostPort, std::move(start.agent),
                  [this] { post_mark(MarkKind::kAgent); });
  TRY(add_virtio("vsock", std::move(vsock)));
  if (start.entropy_device) TRY(add_virtio("rng", std::make_unique<virtio::Rng>(loop_)));
  if (start.network) {
    network_ = TRY_CONTEXT("the network", GuestNetwork::start(*std::move(start.network)));
    TRY(add_virtio("net", network_->take_device()));
  }
  return {};
}

Result<void> Machine::add_virtio(const char* name, std::unique_ptr<virtio::Device> device) {
  size_t index = virtio_.size();
  if (index >= boot::kVirtioInterrupts.size()) return fail("too many devices");
  GuestAddress address = *boot::kVirtioMmio.offset(index * boot::kMmioSlotSize);
  uint32_t pin = boot::kVirtioInterrupts[index];
  VirtioDevice entry;
  entry.name = name;
  entry.line = TRY(add_interrupt(pin));
  entry.device = std::move(device);
  entry.transport = TRY(virtio::MmioTransport::create(name, memory_, *entry.device, *entry.line,
                                                      register_pages_.page(index)));
  uint32_t queue = 0;
  for (const EventFd& event : entry.transport->notify_events())
    TRY(vm_.add_ioeventfd(*address.offset(virtio::spec::kRegisterQueueNotify), queue++,
                          event.get()));
  TRY(mmio_.add(address.value(), virtio::MmioTransport::kSize, *entry.transport));
  parts_.virtio.push_back({address, pin});
  virtio_.push_back(std::move(entry));
  return {};
}

Result<void> Machine::release() {
  if (block_thread_) TRY(block_thread_->check_narrow());
  if (network_) TRY(network_->check_narrow());
  running_threads_ = threads_.size();
  steps_.done("watch");
  TRY(install_seccomp(ThreadKind::kMain));
  for (auto& thread : threads_) thread->release();
  return {};
}

void Machine::stop(Ending ending) {
  if (is_stopping_) return;
  is_stopping_ = true;
  ending_ = std::move(ending);
  // Their ends are posted; a vCPU may be waiting for this loop just now.
  for (auto& thread : threads_) thread->request_stop();
}

void Machine::on_vcpu_ended() {
  if (--running_threads_ > 0) return;
  for (auto& thread : threads_) thread->join();
  // What the guest said last matters most, but no reader holds up the end.
  for (int i = 0; i < kLastWordsTries && !console_.flush(); i++) {
    pollfd poll{.fd = console_.output(), .events = POLLOUT, .revents = 0};
    ::poll(&poll, 1, kLastWordsTryMs);
  }
  listener_.on_stopped(ending_);
}

Result<void> Machine::connect(uint32_t guest_port, Fd stream) {
  return vsock_->connect(guest_port, std::move(stream));
}

Result<void> Machine::set_policy(const protocol::vmm::Policy& policy) {
  if (!network_) return fail("a policy for a machine without a network");
  return network_->set_policy(policy);
}

void Machine::post_mark(MarkKind kind) {
  loop_.post([this, mark = protocol::vmm::Mark{kind, monotonic_ns()}] { listener_.on_mark(mark); });
}

void Machine::mark(uint8_t value) {
  if (value != protocol::agent::kInitMark) return;
  std::vector<protocol::vmm::Counter> counters;
  for (const auto& thread : threads_) thread->counters().add_to(counters, "user_exits_until_init");
  loop_.post([this, counters = std::move(counters)] { counters_at_init_ = counters; });
  post_mark(MarkKind::kInit);
}

void Machine::power_off() {
  loop_.post([this] { stop({EndReason::kPowerOff, "the guest powered itself off", {}}); });
}

void Machine::reset() {
  loop_.post([this] {
    // A kernel without the panic device restarts after a panic; its last words tell.
    if (console_tail().find("Kernel panic - not syncing") != std::string::npos)
      stop({EndReason::kPanic, "the guest kernel panicked", {}});
    else
      stop({EndReason::kReset, "the guest restarted itself", {}});
  });
}

void Machine::panic(bool crash_kernel) {
  if (crash_kernel) return;
  loop_.post([this] { stop({EndReason::kPanic, "the guest kernel panicked", {}}); });
}

protocol::vmm::Report Machine::report() const {
  protocol::vmm::Report report;
  report.counters = counters_at_init_;
  for (const auto& thread : threads_) {
    thread->counters().add_to(report.counters, "user_exits");
    Result<std::vector<kvm::Statistic>> statistics = thread->vcpu().statistics();
    if (!statistics) continue;  // a host without statistics
    for (const kvm::Statistic& statistic : *statistics)
      if (statistic.name.ends_with("exits") || statistic.name.starts_with("pf_"))
        add_counter(report.counters, "kernel_exits/" + statistic.name, statistic.value);
  }
  if (Result<uint64_t> resident = memory_.resident_bytes())
    add_counter(report.counters, "pages_touched", *resident / boot::kPageSize);
  if (memory_.image() >= 0)
    add_counter(report.counters, "image_mappings", memory_.image_mappings());
  if (network_) network_->add_to(report.counters);
  steps_.add_to(report.counters);
  return report;
}

std::string Machine::console_tail() const {
  return console_.tail(kConsoleTailLines);
}

}  // namespace hutch::vmm
