#include "lib/vm.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/sys.h"
#include "protocol/guest_network.h"

namespace hutch::lib {

using protocol::vmm::MessageType;

namespace {

enum Tag : uint32_t { kControlTag = 1, kProcessTag = 2, kAgentTag = 3 };
constexpr uint64_t kMillisecond = 1'000'000;
// A VMM that was asked to end, or has said that it ends, gets this long to do so.
constexpr uint64_t kExitTime = 3000 * kMillisecond;
constexpr uint64_t kLostTime = 2000 * kMillisecond;

Result<Fd> duplicate_if_given(int fd) {
  if (fd < 0) return Fd();
  Fd copy(::fcntl(fd, F_DUPFD_CLOEXEC, 3));
  if (!copy) return fail_errno(errno, fmt::format("duplicating descriptor {}", fd));
  return copy;
}

}  // namespace

Result<std::unique_ptr<Vm>> Vm::start(VmOptions options) {
  Poller poller = TRY(Poller::create());
  std::unique_ptr<Vm> vm(new Vm(std::move(poller), std::move(options)));
  TRY(vm->launch());
  return vm;
}

Vm::Vm(Poller poller, VmOptions options)
    : poller_(std::move(poller)), options_(std::move(options)) {}

Vm::~Vm() {
  agent_.reset();
  control_.reset();
  if (child_.process && !finished_) kill_child(child_);
}

Result<void> Vm::launch() {
  uint64_t now = monotonic_ns();
  // The process first: it gets itself ready while what it needs is opened here.
  if (!options_.shell || !options_.shell->is_alive())
    options_.shell.emplace(TRY(Shell::start({.vmm_path = options_.vmm_path,
                                             .kvm_path = options_.kvm_path,
                                             .log = options_.log,
                                             .end_with_thread = options_.end_with_thread})));
  was_prepared_ = options_.shell->is_prepared();
  options_.vmm_path = options_.shell->vmm_path();
  child_ = options_.shell->release_process();
  control_ = options_.shell->release_control();
  options_.shell.reset();
  TRY(poller_.watch(control_.get(), EPOLLIN, kControlTag));
  TRY(poller_.watch(child_.process.get(), EPOLLIN, kProcessTag));

  if (options_.network && options_.network->ipv6)
    options_.command_line += std::string(" ") + protocol::guest_network::kIpv6Word;
  protocol::vmm::Start start;
  start.cpus = options_.cpus;
  start.memory = options_.memory;
  start.description = options_.description;
  start.command_line = options_.command_line;
  start.pit = options_.pit;
  start.entropy_device = options_.entropy_device;
  if (!was_prepared_) start.kvm = TRY(open_kvm(options_.kvm_path));
  if (options_.restore) {
    start.restore = TRY_CONTEXT("the saved machine", open_saved());
  } else {
    start.kernel = TRY_CONTEXT("the guest kernel", open_file(options_.kernel, O_RDONLY));
  }
  if (!options_.initramfs.empty() && !options_.restore)
    start.initramfs = TRY_CONTEXT("the initramfs", open_file(options_.initramfs, O_RDONLY));
  start.console_output = TRY(duplicate_if_given(options_.console_output));
  start.console_input = TRY(duplicate_if_given(options_.console_input));
  for (VmDisk& disk : options_.disks) start.disks.push_back(TRY(open_disk(disk)));
  if (options_.agent) {
    auto [host, guest] = TRY(socket_pair(SOCK_STREAM));
    TRY(set_nonblocking(guest.get()));
    start.agent = std::move(guest);
    agent_ = TRY(AgentConnection::create(poller_, kAgentTag, std::move(host)));
    agent_deadline_ = now + options_.agent_timeout_ns;
  }
  if (options_.network) start.network = TRY(launch_broker());
  protocol::vmm::Packet packet = encode(start);
  Result<void> sent = send_message(control_.get(), packet.bytes, packet.fds);
  // A VMM that ended at once has closed the socket; its own message or its status says why.
  if (!sent && sent.error().number != EPIPE && sent.error().number != ECONNRESET) return sent;
  update_deadline();
  return {};
}

Result<protocol::vmm::Disk> Vm::open_disk(VmDisk& disk) {
  protocol::vmm::Disk result{.file = std::move(disk.file),
                             .read_only = disk.read_only,
                             .id = disk.id,
                             .delta = {},
                             .layers = {}};
  const bool writes = !disk.read_only && !disk.layered;
  if (!result.file) result.file = TRY(open_file(disk.path, writes ? O_RDWR : O_RDONLY));
  Layers& layers = layers_.emplace_back();
  if (!disk.layered) return result;
  layers.is_layered = true;
  for (const Fd& layer : disk.layers) result.layers.push_back(TRY(layer.duplicate()));
  layers.frozen = std::move(disk.layers);
  for (const Fd& layer : layers.frozen) layers.numbers.push_back(layer.get());
  LayerFile file = TRY_CONTEXT("a disk's layer", make_layer_file(options_.scratch_directory));
  result.delta = std::move(file.file);
  layers.top = std::move(file.view);
  return result;
}

Result<protocol::vmm::Restore> Vm::open_saved() {
  SavedFiles& saved = *options_.restore;
  protocol::vmm::Restore restore;
  restore.memory =
      saved.memory ? std::move(saved.memory) : TRY(open_file(saved.memory_path, O_RDONLY));
  restore.state = saved.state ? std::move(saved.state) : TRY(open_file(saved.state_path, O_RDONLY));
  restore.key = saved.key;
  restore.pages = std::move(saved.pages);
  return restore;
}

Result<protocol::vmm::Network> Vm::launch_broker() {
  NetworkOptions& network = *options_.network;
  if (network.broker_path.empty())
    network.broker_path =
        options_.vmm_path.substr(0, options_.vmm_path.rfind('/') + 1) + "hutch-broker";
  auto [vmm, broker] = TRY(socket_pair(SOCK_SEQPACKET));
  protocol::vmm::Network result;
  result.policy = {network.policy.allows_all, network.policy.patterns};
  result.ipv6 = network.ipv6;
  result.broker = std::move(vmm);
  broker_ = TRY(BrokerProcess::start(std::move(network), std::move(broker), options_.log,
                                     options_.end_with_thread));
  return result;
}

Result<void> Vm::set_policy(const protocol::vmm::Policy& policy) {
  if (!broker_) return fail("the machine has no network");
  if (!control_) return fail("the machine has ended");
  // The broker first: what the VMM lets the guest ask for from then on, it knows already; and what
  // it cuts is in its log as that.
  TRY(broker_->set_policy({policy.allows_all, policy.patterns}));
  protocol::vmm::Packet packet = encode(policy);
  return send_message(control_.get(), packet.bytes, packet.fds);
}

Result<void> Vm::send(const protocol::vmm::Packet& packet) {
  if (!control_) return fail("the machine has ended");
  return send_message(control_.get(), packet.bytes, packet.fds);
}

Result<void> Vm::pause() {
  return send(protocol::vmm::encode_plain(MessageType::kPause));
}

Result<void> Vm::resume() {
  return send(protocol::vmm::encode_plain(MessageType::kResume));
}

Result<void> Vm::save(Fd memory, Fd state, const protocol::vmm::SavedKey& key) {
  if (is_saving_) return fail("the machine is being saved already");
  protocol::vmm::Save message{
      .memory = std::move(memory), .state = std::move(state), .key = key, .disks = {}};
  for (size_t i = 0; i < layers_.size(); i++) {
    if (!layers_[i].is_layered) continue;
    LayerFile fresh = TRY_CONTEXT("a disk's layer", make_layer_file(options_.scratch_directory));
    layers_[i].next = std::move(fresh.view);
    Fd frozen = TRY(layers_[i].top.duplicate());
    message.disks.push_back({.disk = static_cast<uint32_t>(i),
                             .frozen = std::move(frozen),
                             .fresh = std::move(fresh.file)});
  }
  TRY(send(protocol::vmm::encode(message)));
  is_saving_ = true;
  return {};
}

Result<void> Vm::record_pages(Fd file) {
  return send(protocol::vmm::encode(protocol::vmm::RecordPages{std::move(file)}));
}

Result<std::span<const int>> Vm::disk_layers(size_t index) const {
  if (index >= layers_.size() || !layers_[index].is_layered)
    return fail(fmt::format("disk {} has no layers", index));
  return std::span<const int>(layers_[index].numbers);
}

Result<void> Vm::handle_saved(const protocol::vmm::Saved& saved) {
  is_saving_ = false;
  for (const protocol::vmm::DiskLayers& each : saved.disks) {
    // `next` is open while its disk waits for this answer, of which there is one.
    if (each.disk >= layers_.size() || !layers_[each.disk].next ||
        each.kept > layers_[each.disk].frozen.size())
      return fail(fmt::format("the layers of disk {}, which has other ones", each.disk));
    Layers& disk = layers_[each.disk];
    disk.frozen.erase(disk.frozen.begin() + each.kept, disk.frozen.end());
    disk.numbers.resize(each.kept);
    Fd next = std::move(disk.next);
    if (!each.is_frozen) continue;
    disk.numbers.push_back(disk.top.get());
    disk.frozen.push_back(std::move(disk.top));
    disk.top = std::move(next);
  }
  for (Layers& disk : layers_) disk.next.reset();
  events_.push_back(std::make_unique<Event>(HUTCH_EVENT_SAVED, 0));
  events_.back()->transferred = saved.memory_bytes;
  events_.back()->set_message(saved.problem);
  return {};
}

std::unique_ptr<Event> Vm::next_event() {
  auto take = [](EventQueue& queue) {
    std::unique_ptr<Event> event = std::move(queue.front());
    queue.pop_front();
    return event;
  };
  for (bool pumped = false;; pumped = true) {
    if (agent_ && !agent_->client().events().empty() && !agent_lost_)
      return take(agent_->client().events());
    if (!events_.empty()) {
      if (events_.front()->kind == HUTCH_EVENT_AGENT_LOST) agent_lost_ = true;
      return take(events_);
    }
    if (pumped || finished_) return nullptr;
    pump();
  }
}

void Vm::pump() {
  for (Poller::Ready ready : poller_.ready()) {
    if (ready.tag == kControlTag && control_) receive_control();
    if (ready.tag == kAgentTag && agent_) agent_->pump();
    if (ready.tag == kProcessTag) collect_exit();
  }
  if (finished_) return;
  if (agent_ && agent_->client().is_ready()) agent_deadline_ = 0;
  check_agent();
  check_deadlines();
  update_deadline();
}

void Vm::receive_control() {
  while (control_) {
    Result<ReceivedMessage> message = receive_message(control_.get(), protocol::vmm::kMaxMessage);
    if (!message && message.error().number == EAGAIN) return;
    if (message && !message->bytes.empty()) {
      Result<void> handled = handle_message(message->bytes);
      if (handled) continue;
      verdict_ = {HUTCH_REASON_VMM_FAILED,
                  fmt::format("hutch-vmm sent what it may not: {}", handled.error().message),
                  "use the hutch-vmm that came with this program"};
    }
    // Its end of the socket is closed, or it is not to be listened to any more.
    poller_.unwatch(control_.get());
    control_.reset();
    expect_exit();
  }
}

Result<void> Vm::handle_message(std::span<const std::byte> bytes) {
  if (ended_) return fail("a message after its last");
  switch (TRY(protocol::vmm::type_of(bytes))) {
    case MessageType::kMark:
      handle_mark(TRY(protocol::vmm::decode_mark(bytes)));
      return {};
    case MessageType::kReport:
      events_.push_back(std::make_unique<Event>(HUTCH_EVENT_REPORT, 0));
      events_.back()->set_counters(TRY(protocol::vmm::decode_report(bytes)));
      return {};
    case MessageType::kPaused:
      events_.push_back(std::make_unique<Event>(HUTCH_EVENT_PAUSED, 0));
      return {};
    case MessageType::kResumed:
      events_.push_back(std::make_unique<Event>(HUTCH_EVENT_RESUMED, 0));
      return {};
    case MessageType::kSaved:
      if (!is_saving_) return fail("an answer to what was not asked");
      return handle_saved(TRY(protocol::vmm::decode_saved(bytes)));
    case MessageType::kPagesRecorded: {
      auto recorded = TRY(protocol::vmm::decode_pages_recorded(bytes));
      events_.push_back(std::make_unique<Event>(HUTCH_EVENT_PAGES_RECORDED, 0));
      events_.back()->transferred = recorded.bytes;
      events_.back()->set_message(recorded.problem);
      return {};
    }
    case MessageType::kEnded:
      ended_ = TRY(protocol::vmm::decode_ended(bytes));
      expect_exit();
      return {};
    default:
      return fail("a message that only the launcher sends");
  }
}

void Vm::handle_mark(const protocol::vmm::Mark& mark) {
  events_.push_back(std::make_unique<Event>(HUTCH_EVENT_MARK, 0));
  events_.back()->mark = static_cast<int>(mark.kind);
  events_.back()->monotonic_ns = mark.monotonic_ns;
  if (mark.kind != protocol::vmm::MarkKind::kAgent || !agent_) return;
  // Only now: the guest's clock is set from what this message says.
  HelloOptions greeting{.set_clock = true, .host_name = options_.host_name};
  if (options_.restore) {
    greeting.renew = true;
    greeting.adopt = options_.restore->adopt_service;
    greeting.service_environment = options_.restore->service_environment;
  }
  auto hello = make_hello(greeting);
  if (!hello) return agent_->drop(std::move(hello).error());
  agent_->client().say_hello(*std::move(hello));
  agent_->flush();
}

void Vm::check_agent() {
  if (!agent_ || agent_->is_open() || agent_lost_ || ended_ || verdict_) return;
  auto lose = [&](const std::string& message, const std::string& remedy) {
    events_.push_back(std::make_unique<Event>(HUTCH_EVENT_AGENT_LOST, 0));
    events_.back()->set_message(message);
    events_.back()->set_remedy(remedy);
    agent_deadline_ = lost_deadline_ = 0;
    agent_lost_ = true;
  };
  if (agent_->failure()) {
    lose(agent_->failure()->message, agent_->failure()->remedy);
  } else if (lost_deadline_ == 0) {
    lost_deadline_ = monotonic_ns() + kLostTime;
  } else if (monotonic_ns() >= lost_deadline_) {
    lose("the agent in the guest has closed its connection", "");
  }
}

void Vm::check_deadlines() {
  uint64_t now = monotonic_ns();
  if (agent_deadline_ != 0 && now >= agent_deadline_) {
    agent_deadline_ = 0;
    if (!ended_ && !verdict_) {
      verdict_ = {HUTCH_REASON_AGENT_TIMEOUT,
                  fmt::format("the agent in the guest did not answer within {:.1f} s",
                              static_cast<double>(options_.agent_timeout_ns) / 1e9),
                  "look at the console: the kernel and the initramfs must be made for hutch"};
      // Its answer brings the console; a VMM that does not answer is killed.
      if (!stop()) expect_exit();
    }
  }
  if (exit_deadline_ != 0 && now >= exit_deadline_) {
    exit_deadline_ = 0;
    ::syscall(SYS_pidfd_send_signal, child_.process.get(), SIGKILL, nullptr, 0);
  }
}

void Vm::expect_exit() {
  if (exit_deadline_ == 0) exit_deadline_ = monotonic_ns() + kExitTime;
}

void Vm::update_deadline() {
  uint64_t next = UINT64_MAX;
  for (uint64_t deadline : {agent_deadline_, lost_deadline_, exit_deadline_})
    if (deadline != 0) next = std::min(next, deadline);
  poller_.set_deadline(next == UINT64_MAX ? 0 : next);
}

void Vm::collect_exit() {
  siginfo_t info{};
  if (::waitid(P_PIDFD, static_cast<id_t>(child_.process.get()), &info, WEXITED | WNOHANG) < 0) {
    if (errno == EINTR) return;
    info.si_code = 0;  // somebody else has collected it
  } else if (info.si_pid == 0) {
    return;
  }
  // What was sent before the end is still in the sockets.
  if (control_) receive_control();
  if (agent_) {
    // The bound is what a socket can hold; a closed one ends the loop at once.
    for (int i = 0; i < 8 && agent_->is_open(); i++) agent_->pump();
  }
  finish(info.si_code, info.si_status);
}

void Vm::finish(int status_code, int status) {
  finished_ = true;
  poller_.set_deadline(0);
  poller_.unwatch(child_.process.get());
  auto event = std::make_unique<Event>(HUTCH_EVENT_ENDED, 0);
  if (ended_) {
    event->reason = static_cast<int>(ended_->reason);
    event->set_message(ended_->message);
    event->set_remedy(ended_->remedy);
    event->set_console_tail(ended_->console_tail);
    event->set_counters(ended_->report);
  } else {
    event->reason = HUTCH_REASON_VMM_FAILED;
    if (status_code == CLD_KILLED || status_code == CLD_DUMPED) {
      const char* name = ::sigabbrev_np(status);
      event->set_message(fmt::format("hutch-vmm was killed by signal {} (SIG{})", status,
                                     name != nullptr ? name : "?"));
      event->set_remedy(status == SIGSYS ? "a system call was not allowed: please report this"
                        : status == SIGKILL
                            ? "look in the kernel log (dmesg) for the out-of-memory killer"
                            : "please report this with the lines that hutch-vmm logged");
    } else if (status_code == CLD_EXITED) {
      event->set_message(fmt::format("hutch-vmm ended with status {} before it said why", status));
    } else {
      event->set_message("hutch-vmm ended, and another part of this program took its status");
    }
  }
  if (verdict_) {
    event->reason = verdict_->reason;
    event->set_message(verdict_->message);
    event->set_remedy(verdict_->remedy);
  }
  events_.push_back(std::move(event));
  poller_.wake();
}

Result<void> Vm::query() {
  if (!control_ || ended_) return fail("the machine has ended");
  protocol::vmm::Packet packet = protocol::vmm::encode_plain(MessageType::kQuery);
  return send_message(control_.get(), packet.bytes, packet.fds);
}

Result<void> Vm::stop() {
  if (finished_) return {};
  if (control_ && !ended_) {
    protocol::vmm::Packet packet = protocol::vmm::encode_plain(MessageType::kStop);
    Result<void> sent = send_message(control_.get(), packet.bytes, packet.fds);
    // A full or closed socket is the VMM's fault: the deadline below deals with it.
    if (!sent && sent.error().number != EAGAIN && sent.error().number != EPIPE &&
        sent.error().number != ECONNRESET)
      return sent;
  }
  expect_exit();
  update_deadline();
  return {};
}

}  // namespace hutch::lib
