#include "control/machine_guest.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <hutch.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <chrono>
#include <deque>
#include <map>
#include <optional>
#include <vector>

#include "base/fd.h"
#include "base/log.h"
#include "base/sys.h"
#include "control/free_space.h"
#include "control/problem.h"

namespace hutch::control {
namespace {

namespace asio = boost::asio;

constexpr const char* kUser = "app";
constexpr std::string_view kReadyLine = "ready\n";
constexpr int kStandardOutput = 1;
constexpr size_t kLayerDisk = 1;
// How many events are taken before others get their turn.
constexpr int kTurn = 64;
constexpr int kFirstCommand = 3;  // see record_pages()

// Frees an error of libhutch; its text.
std::string take_text(hutch_error* error) {
  std::string text = hutch_error_message(error);
  std::string remedy = hutch_error_remedy(error);
  hutch_error_free(error);
  return remedy.empty() ? text : fmt::format("{} ({})", text, remedy);
}

// What libhutch wants to know of a sandbox's network; lives as long as its options are used.
class Network {
 public:
  Network(const Config& config, const artefacts::Parts& parts, const policy::Policy& policy, Fd log)
      : blocks_(split_words(config.open_blocks)),
        servers_(split_words(config.dns_servers)),
        log_(std::move(log)) {
    options_.size = sizeof options_;
    options_.ipv6 = config.ipv6;
    set_policy(policy);
    options_.opened_blocks = fill(block_pointers_, blocks_);
    options_.opened_block_count = blocks_.size();
    options_.dns_servers = fill(server_pointers_, servers_);
    options_.dns_server_count = servers_.size();
    options_.decision_log_fd = log_.get();
    options_.decision_log_limit = static_cast<uint64_t>(config.network_log_mb) << 20;
    options_.broker_path = parts.broker.c_str();
  }
  // For a machine that starts from now on.
  void set_policy(const policy::Policy& policy) {
    patterns_ = policy.patterns();
    host_pointers_.clear();
    options_.allow_all = policy.allows_all();
    options_.hosts = fill(host_pointers_, patterns_);
    options_.host_count = patterns_.size();
  }
  const hutch_network* options() const { return &options_; }

 private:
  static const char* const* fill(std::vector<const char*>& pointers,
                                 const std::vector<std::string>& words) {
    for (const std::string& word : words) pointers.push_back(word.c_str());
    return pointers.data();
  }
  static std::vector<std::string> split_words(const std::string& text) {
    std::vector<std::string> words;
    for (size_t start = 0; start < text.size();) {
      size_t end = std::min(text.find(',', start), text.size());
      if (end > start) words.push_back(text.substr(start, end - start));
      start = end + 1;
    }
    return words;
  }
  std::vector<std::string> patterns_, blocks_, servers_;
  std::vector<const char*> host_pointers_, block_pointers_, server_pointers_;
  Fd log_;
  hutch_network options_{};
};

class MachineGuest;

class MachineChannel final : public Channel {
 public:
  MachineChannel(MachineGuest& guest, ChannelEvents& events) : guest_(&guest), events_(events) {}
  ~MachineChannel() override;
  size_t write(std::span<const std::byte> bytes) override;

 private:
  friend MachineGuest;
  MachineGuest* guest_;  // null once it is gone
  ChannelEvents& events_;
  hutch_task task_ = 0;
};

class MachineGuest final : public Guest {
 public:
  MachineGuest(asio::io_context& context, const Config& config, const artefacts::Parts& parts,
               const NetworkLogs& logs, Templates& templates, Shells& shells,
               const GuestOptions& options, GuestEvents& events);
  ~MachineGuest() override;

  std::unique_ptr<Channel> open_channel(ChannelEvents& events, uint64_t stream_base) override;
  void set_policy(const policy::Policy& policy) override;
  void save(Saved done) override;
  void set_paused(bool paused, std::function<void(bool good)> done) override;
  void end() override;

 private:
  friend MachineChannel;
  using EventHandle = std::shared_ptr<hutch_event>;

  void start(const Template* from);
  void start_anew();
  hutch_task start_service(std::vector<const char*> arguments,
                           const std::vector<std::string>& environment);
  void wait();
  void take_events();
  // False: this object is gone.
  bool handle(const EventHandle& event);
  bool handle_machine(const hutch_event& event);
  bool handle_service(const hutch_event& event);
  bool serve();
  bool on_frozen(const std::string& problem);
  bool on_paused();
  bool on_saved(bool good);
  bool take_layers();
  bool on_resumed();
  void save_next();
  void finish_save(std::shared_ptr<const Template> saved);
  void thaw();
  void answer_pause(bool good);
  void record_pages();
  void stop();
  bool handle_channel(MachineChannel& channel, const EventHandle& event);
  bool finish(const std::string& reason);

  const Config& config_;
  const artefacts::Parts& parts_;
  Templates& templates_;
  Shells& shells_;
  GuestEvents& events_;
  GuestOptions options_;
  const std::string id_;
  const Shape shape_;
  std::optional<Network> network_;
  std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
  hutch_vm* vm_ = nullptr;
  asio::posix::stream_descriptor ready_;
  const bool is_copy_;  // goes on with what ran in another
  bool is_fork_ = false;
  bool serves_ = false;                // on_ready() was called
  bool is_ending_ = false;             // it was asked to
  int spoken_ = 0;                     // how often its service has, on all channels
  Fd pages_;                           // open while they are recorded
  std::unique_ptr<Draft> draft_;       // while it is being saved
  bool is_good_ = false;               // what is being saved
  std::deque<Saved> saves_;            // asked for; the first one is under way
  std::function<void(bool)> pausing_;  // set_paused() is under way
  hutch_task service_ = 0;
  std::string service_output_;
  bool service_ready_ = false;
  std::string failure_;  // why it is to end, when that is not what it was asked to do
  std::map<hutch_task, MachineChannel*> channels_;
  // Set when this object is destroyed, for those that are in the middle of a call.
  std::shared_ptr<bool> gone_ = std::make_shared<bool>(false);
};

MachineChannel::~MachineChannel() {
  if (guest_ == nullptr) return;
  guest_->channels_.erase(task_);
  // The service sees the end of its input; what it still says is thrown away.
  hutch_error* error = nullptr;
  if (hutch_task_close_input(hutch_vm_agent(guest_->vm_), task_, &error) != HUTCH_OK)
    hutch_error_free(error);  // it has ended already
}

size_t MachineChannel::write(std::span<const std::byte> bytes) {
  // Nothing is taken once it has ended, and on_closed() is due.
  if (guest_ == nullptr) return 0;
  size_t taken = 0;
  hutch_error* error = nullptr;
  if (hutch_task_write(hutch_vm_agent(guest_->vm_), task_, bytes.data(), bytes.size(), &taken,
                       &error) != HUTCH_OK)
    hutch_error_free(error);
  return taken;
}

MachineGuest::MachineGuest(asio::io_context& context, const Config& config,
                           const artefacts::Parts& parts, const NetworkLogs& logs,
                           Templates& templates, Shells& shells, const GuestOptions& options,
                           GuestEvents& events)
    : config_(config),
      parts_(parts),
      templates_(templates),
      shells_(shells),
      events_(events),
      options_(options),
      id_(options.sandbox_id),
      shape_{options.memory, options.cpus, options.egress.has_value(), config.ipv6,
             options.organisation},
      ready_(context),
      is_copy_(options.from != nullptr) {
  check_free_space(parts.scratch, config.disk_reserve_mb);
  if (options.egress)
    network_.emplace(config, parts, *options.egress, logs.create(options.sandbox_id));
  std::shared_ptr<const Template> from = is_copy_ ? options_.from : templates_.find(shape_);
  start(from.get());
  // It has been opened: its files may go.
  options_.from.reset();
}

// `from`: null for a boot.
void MachineGuest::start(const Template* from) {
  std::vector<std::string> identity{"DENO_SANDBOX_ID=" + options_.sandbox_id,
                                    "DENO_DEPLOY_ORGANIZATION_ID=" + options_.organisation};
  is_fork_ = from != nullptr;
  hutch_disk root{}, layer{};
  root.size = layer.size = sizeof root;
  root.path = parts_.image.c_str();
  root.read_only = 1;
  root.id = "root";
  layer.path = parts_.layer.c_str();
  layer.layered = 1;
  layer.id = "layer";
  std::vector<int> frozen;
  if (is_fork_)
    for (const Fd& each : from->layers) frozen.push_back(each.get());
  layer.layers = frozen.data();
  layer.layer_count = frozen.size();
  const hutch_disk* disks[] = {&root, &layer};

  hutch_vm_options machine{};
  machine.size = sizeof machine;
  machine.cpus = options_.cpus;
  machine.memory = options_.memory;
  hutch_saved_machine saved{};
  std::vector<const char*> environment;
  std::string words = fmt::format("{} {}", artefacts::kKernelWords, artefacts::kRootWords);
  if (is_fork_) {
    for (const std::string& word : identity) environment.push_back(word.c_str());
    environment.push_back(nullptr);
    saved.size = sizeof saved;
    saved.memory_fd = from->memory.get();
    saved.state_fd = from->state.get();
    std::copy(from->key.begin(), from->key.end(), saved.key);
    if (from->pages) saved.pages_fd = from->pages.get();
    saved.adopt_service = 1;
    saved.service_environment = environment.data();
    machine.restore = &saved;
  } else {
    machine.kernel = parts_.kernel.c_str();
    machine.initramfs = parts_.initramfs.c_str();
    machine.command_line = words.c_str();
  }
  machine.disks = disks;
  machine.disk_count = 2;
  machine.scratch_directory = parts_.scratch.c_str();
  machine.agent_timeout_ms = static_cast<uint32_t>(config_.boot_timeout_s * 1000);
  // As a host may be called: no underscores.
  std::string host_name = id_;
  std::ranges::replace(host_name, '_', '-');
  machine.host_name = host_name.c_str();
  machine.log_fd = STDERR_FILENO;
  machine.vmm_path = parts_.vmm.c_str();
  machine.end_with_thread = 1;
  if (network_) machine.network = network_->options();
  machine.shell = shells_.take();
  hutch_error* error = nullptr;
  if (hutch_vm_start(&machine, &vm_, &error) != HUTCH_OK) {
    log_error("{}: its machine cannot be started: {}", id_, take_text(error));
    throw Problem(500, "SANDBOX_START_FAILED",
                  "the sandbox's machine cannot be started; the server's log says why");
  }
  try {
    int fd = ::fcntl(hutch_vm_event_fd(vm_), F_DUPFD_CLOEXEC, 0);
    if (fd < 0)
      throw Problem(500, "SANDBOX_START_FAILED", "the server has no free file descriptor");
    ready_.assign(fd);
    service_ = is_fork_ ? HUTCH_ADOPTED_TASK : start_service({"rpc"}, identity);
  } catch (...) {
    hutch_vm_free(std::exchange(vm_, nullptr));
    throw;
  }
  wait();
}

// The template is of no use: it boots.
void MachineGuest::start_anew() {
  templates_.discard(shape_);
  hutch_vm_free(std::exchange(vm_, nullptr));
  ready_.close();
  failure_.clear();
  start(nullptr);
}

MachineGuest::~MachineGuest() {
  *gone_ = true;
  for (const auto& [task, channel] : channels_) channel->guest_ = nullptr;
  if (draft_ && saves_.empty()) templates_.give_up(shape_, std::move(draft_));
  answer_pause(false);
  if (pages_) templates_.keep_pages(shape_, Fd());
  for (Saved& done : saves_)
    asio::post(ready_.get_executor(), [done = std::move(done)] { done(nullptr); });
  hutch_vm_free(vm_);
}

hutch_task MachineGuest::start_service(std::vector<const char*> arguments,
                                       const std::vector<std::string>& environment) {
  arguments.push_back(nullptr);
  std::vector<const char*> variables;
  for (const std::string& word : environment) variables.push_back(word.c_str());
  variables.push_back(nullptr);
  hutch_process_options process{};
  process.size = sizeof process;
  process.arguments = arguments.data();
  process.environment = variables.data();
  process.user = kUser;
  process.open_input = 1;
  process.agent_program = 1;
  hutch_task task = 0;
  hutch_error* error = nullptr;
  if (hutch_process_start(hutch_vm_agent(vm_), &process, &task, &error) == HUTCH_OK) return task;
  log_error("{}: its service cannot be started: {}", id_, take_text(error));
  throw Problem(500, "SANDBOX_START_FAILED", "the sandbox's service cannot be started");
}

std::unique_ptr<Channel> MachineGuest::open_channel(ChannelEvents& events, uint64_t stream_base) {
  std::string base = std::to_string(stream_base);
  auto channel = std::make_unique<MachineChannel>(*this, events);
  try {
    channel->task_ = start_service({"rpc-attach", base.c_str()}, {});
  } catch (...) {
    channel->guest_ = nullptr;
    throw;
  }
  channels_[channel->task_] = channel.get();
  return channel;
}

void MachineGuest::set_policy(const policy::Policy& policy) {
  std::vector<std::string> patterns = policy.patterns();
  std::vector<const char*> pointers;
  for (const std::string& pattern : patterns) pointers.push_back(pattern.c_str());
  hutch_error* error = nullptr;
  if (hutch_vm_set_policy(vm_, policy.allows_all(), pointers.data(), pointers.size(), &error) ==
      HUTCH_OK) {
    // Its template may turn out to be of no use yet, and then it boots.
    network_->set_policy(policy);
    return;
  }
  log_error("{}: its policy cannot be changed, so it ends: {}", id_, take_text(error));
  // Under the old one it must not go on.
  end();
  throw Problem(500, "INTERNAL_ERROR", "the policy cannot be changed: the sandbox is ended");
}

void MachineGuest::end() {
  is_ending_ = true;
  stop();
}

void MachineGuest::stop() {
  hutch_error* error = nullptr;
  if (hutch_vm_stop(vm_, &error) != HUTCH_OK) {
    // Without ENDED there would be no end.
    std::string text = take_text(error);
    asio::post(ready_.get_executor(), [this, gone = gone_, text] {
      if (!*gone) finish(text);
    });
  }
}

void MachineGuest::wait() {
  ready_.async_wait(asio::posix::stream_descriptor::wait_read,
                    [this, gone = gone_](boost::system::error_code error) {
                      if (error || *gone) return;
                      take_events();
                    });
}

void MachineGuest::take_events() {
  for (int i = 0; i < kTurn; i++) {
    hutch_event* next = nullptr;
    hutch_error* error = nullptr;
    if (hutch_vm_next_event(vm_, &next, &error) != HUTCH_OK) {
      finish(take_text(error));
      return;
    }
    if (next == nullptr) break;
    if (!handle(EventHandle(next, hutch_event_free))) return;
  }
  // Asks again at once when there is more.
  wait();
}

bool MachineGuest::handle(const EventHandle& event) {
  if (event->task == 0) return handle_machine(*event);
  if (event->task == service_) return handle_service(*event);
  auto found = channels_.find(event->task);
  // Of one that is closed: thrown away.
  return found == channels_.end() || handle_channel(*found->second, event);
}

bool MachineGuest::handle_machine(const hutch_event& event) {
  switch (event.kind) {
    case HUTCH_EVENT_AGENT_LOST:
      failure_ = event.message;
      stop();
      return true;
    case HUTCH_EVENT_ENDED: {
      std::string reason = !failure_.empty()        ? failure_
                           : *event.message != '\0' ? event.message
                                                    : hutch_reason_name(event.reason);
      if (event.reason == HUTCH_REASON_PANIC && !is_ending_)
        log_warning("{}: the console's last lines:\n{}", id_, event.console_tail);
      if (!is_fork_ || serves_ || is_ending_ || is_copy_) return finish(reason);
      log_warning("{}: its template is of no use: {}", id_, reason);
      try {
        start_anew();
        return false;
      } catch (const Problem& problem) {
        return finish(problem.message());
      }
    }
    case HUTCH_EVENT_AGENT_READY:
      return is_fork_ ? serve() : true;
    case HUTCH_EVENT_PAUSED:
      return on_paused();
    case HUTCH_EVENT_SAVED:
      if (*event.message != '\0') log_warning("{}: cannot be saved: {}", id_, event.message);
      return on_saved(*event.message == '\0');
    case HUTCH_EVENT_RESUMED:
      return on_resumed();
    case HUTCH_EVENT_PAGES_RECORDED:
      if (*event.message != '\0') log_debug("{}: no list of pages: {}", id_, event.message);
      templates_.keep_pages(shape_, *event.message == '\0' ? std::move(pages_) : Fd());
      pages_.reset();
      return true;
    case HUTCH_EVENT_FROZEN:
      return on_frozen(event.message);
    case HUTCH_EVENT_THAWED:
      if (*event.message == '\0') return true;
      failure_ = fmt::format("its programs stay frozen: {}", event.message);
      stop();
      return true;
    default:
      return true;
  }
}

// The service answers. False: this object is gone.
bool MachineGuest::serve() {
  auto took = std::chrono::duration_cast<std::chrono::milliseconds>(
      std::chrono::steady_clock::now() - started_);
  const Way way{!is_fork_             ? Path::kBoot
                : options_.is_restore ? Path::kRestore
                                      : Path::kFork,
                hutch_vm_was_prepared(vm_) != 0};
  log_info("{}: serves after {} ms, by a {} in a {} process", id_, took.count(),
           path_name(way.path), way.is_prepared ? "prepared" : "new");
  serves_ = service_ready_ = true;
  std::shared_ptr<bool> gone = gone_;
  shells_.refill_soon();
  events_.on_ready(way);
  return !*gone;
}

// As a template of its shape this goes from on_paused() on, when nothing has run in it yet.
void MachineGuest::save(Saved done) {
  saves_.push_back(std::move(done));
  if (saves_.size() == 1) save_next();
}

void MachineGuest::save_next() {
  hutch_error* error = nullptr;
  std::string problem;
  try {
    if (!serves_ || is_ending_) throw std::runtime_error("it does not serve");
    check_free_space(templates_.folder(), config_.disk_reserve_mb);
    draft_ = templates_.begin_own();
    if (hutch_agent_freeze(hutch_vm_agent(vm_), &error) == HUTCH_OK) return;
    problem = take_text(error);
  } catch (const std::exception& failure) {
    problem = failure.what();
  }
  log_warning("{}: cannot be saved: {}", id_, problem);
  asio::post(ready_.get_executor(), [this, gone = gone_] {
    if (!*gone) finish_save(nullptr);
  });
}

void MachineGuest::finish_save(std::shared_ptr<const Template> saved) {
  draft_.reset();
  Saved done = std::move(saves_.front());
  saves_.pop_front();
  if (!saves_.empty()) save_next();
  asio::post(ready_.get_executor(),
             [done = std::move(done), saved = std::move(saved)] { done(saved); });
}

// Nothing runs in it but its kernel and the agent.
bool MachineGuest::on_frozen(const std::string& problem) {
  if (saves_.empty()) return true;
  hutch_error* error = nullptr;
  if (problem.empty() && hutch_vm_pause(vm_, &error) == HUTCH_OK) return true;
  log_warning("{}: cannot be saved: {}", id_, problem.empty() ? take_text(error) : problem);
  if (problem.empty()) thaw();
  finish_save(nullptr);
  return true;
}

void MachineGuest::set_paused(bool paused, std::function<void(bool)> done) {
  pausing_ = std::move(done);
  hutch_error* error = nullptr;
  if ((paused ? hutch_vm_pause : hutch_vm_resume)(vm_, &error) == HUTCH_OK) return;
  log_warning("{}: cannot be {}: {}", id_, paused ? "paused" : "resumed", take_text(error));
  answer_pause(false);
}

void MachineGuest::answer_pause(bool good) {
  if (auto done = std::exchange(pausing_, nullptr))
    asio::post(ready_.get_executor(), [done = std::move(done), good] { done(good); });
}

// It stands still.
bool MachineGuest::on_paused() {
  hutch_error* error = nullptr;
  answer_pause(true);
  if (draft_ == nullptr) return true;
  if (hutch_vm_save(vm_, draft_->memory.get(), draft_->state.get(), templates_.key().data(),
                    &error) == HUTCH_OK)
    return true;
  log_warning("{}: cannot be saved: {}", id_, take_text(error));
  return on_saved(false);
}

// As far as the machine's part goes; it runs on, saved or not.
bool MachineGuest::on_saved(bool good) {
  hutch_error* error = nullptr;
  if (good) good = take_layers();
  is_good_ = good;
  if (hutch_vm_resume(vm_, &error) == HUTCH_OK) return true;
  failure_ = take_text(error);
  stop();
  return true;
}

// What the guest has written so far is frozen, and shared from now on.
bool MachineGuest::take_layers() {
  const int* layers = nullptr;
  size_t count = 0;
  hutch_error* error = nullptr;
  if (hutch_vm_disk_layers(vm_, kLayerDisk, &layers, &count, &error) != HUTCH_OK) {
    log_warning("{}: cannot be saved: {}", id_, take_text(error));
    return false;
  }
  for (size_t i = 0; i < count; i++) {
    draft_->layers.emplace_back(::fcntl(layers[i], F_DUPFD_CLOEXEC, 0));
    if (draft_->layers.back()) continue;
    log_warning("{}: cannot be saved: the server has no free file descriptor", id_);
    return false;
  }
  return true;
}

bool MachineGuest::on_resumed() {
  answer_pause(true);
  if (!saves_.empty()) {
    thaw();
    std::shared_ptr<const Template> saved;
    try {
      if (is_good_) saved = templates_.finish_own(std::move(draft_));
    } catch (const std::exception& error) {
      log_warning("{}: cannot be saved: {}", id_, error.what());
    }
    finish_save(saved);
    return true;
  }
  if (draft_ && is_good_) {
    templates_.finish(shape_, std::move(draft_));
  } else if (draft_) {
    templates_.give_up(shape_, std::move(draft_));
  }
  return serves_ || serve();
}

void MachineGuest::thaw() {
  hutch_error* error = nullptr;
  if (hutch_agent_thaw(hutch_vm_agent(vm_), &error) == HUTCH_OK) return;
  failure_ = take_text(error);
  stop();
}

bool MachineGuest::handle_service(const hutch_event& event) {
  switch (event.kind) {
    case HUTCH_EVENT_OUTPUT:
      if (service_ready_ || event.stream != kStandardOutput) return true;
      service_output_.append(static_cast<const char*>(event.data), event.data_size);
      if (service_output_ == kReadyLine) {
        draft_ = templates_.begin(shape_);
        hutch_error* error = nullptr;
        if (!draft_) return serve();
        service_ready_ = true;
        if (hutch_vm_pause(vm_, &error) == HUTCH_OK) return true;
        log_warning("{}: no template: {}", id_, take_text(error));
        templates_.give_up(shape_, std::move(draft_));
        return serve();
      }
      if (kReadyLine.starts_with(service_output_)) return true;
      failure_ = "its service spoke another protocol";
      end();
      return true;
    case HUTCH_EVENT_FAILED:
      failure_ = fmt::format("its service cannot be run: {}", event.message);
      end();
      return true;
    case HUTCH_EVENT_EXITED:
      failure_ = fmt::format("its service ended with {} {}", event.signaled ? "signal" : "status",
                             event.value);
      end();
      return true;
    default:
      return true;
  }
}

// Once, of a fork whose first command has ended, as far as that can be told from how often its
// service has spoken: for the start of the command, its output and its end.
void MachineGuest::record_pages() {
  if (++spoken_ != kFirstCommand || !is_fork_ || is_copy_ || !templates_.wants_pages(shape_))
    return;
  pages_ = Fd(::memfd_create("pages", MFD_CLOEXEC));
  hutch_error* error = nullptr;
  if (pages_ && hutch_vm_record_pages(vm_, pages_.get(), &error) == HUTCH_OK) return;
  hutch_error_free(error);
  pages_.reset();
  templates_.keep_pages(shape_, Fd());
}

bool MachineGuest::handle_channel(MachineChannel& channel, const EventHandle& event) {
  std::shared_ptr<bool> gone = gone_;
  switch (event->kind) {
    case HUTCH_EVENT_OUTPUT:
      record_pages();
      if (event->stream == kStandardOutput)
        channel.events_.on_output(
            {std::string_view(static_cast<const char*>(event->data), event->data_size), event});
      break;
    case HUTCH_EVENT_WRITABLE:
      channel.events_.on_writable();
      break;
    case HUTCH_EVENT_OUTPUT_END:
      if (event->stream == kStandardOutput) channel.events_.on_closed();
      break;
    case HUTCH_EVENT_FAILED:
      channel.events_.on_closed();
      break;
    default:
      break;
  }
  return !*gone;
}

bool MachineGuest::finish(const std::string& reason) {
  std::shared_ptr<bool> gone = gone_;
  events_.on_ended(reason);
  return !*gone;
}

}  // namespace

GuestFactory machine_factory(asio::io_context& context, const Config& config,
                             const artefacts::Parts& parts, const NetworkLogs& logs,
                             Templates& templates, Shells& shells) {
  return [&](const GuestOptions& options, GuestEvents& events) {
    return std::make_unique<MachineGuest>(context, config, parts, logs, templates, shells, options,
                                          events);
  };
}

}  // namespace hutch::control
