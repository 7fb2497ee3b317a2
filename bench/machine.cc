#include "bench/machine.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include <fstream>
#include <memory>

#include "base/sys.h"
#include "bench/echo.h"
#include "bench/interrupt.h"
#include "bench/subject.h"

namespace hutch::bench {
namespace {

constexpr int kAnswerMs = 120'000;
constexpr long kShellReadyNs = 100'000'000;
constexpr size_t kLayer = 1;  // among the disks

Fd new_file(const std::string& folder) {
  Fd file(::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (file) return file;
  std::string name = folder + "/hutch-bench-XXXXXX";
  file = Fd(::mkostemp(name.data(), O_CLOEXEC));
  if (!file) throw BenchFailure(fmt::format("{} takes no file", folder));
  ::unlink(name.c_str());
  return file;
}

}  // namespace

void check(int code, hutch_error* error) {
  if (code == HUTCH_OK) return;
  std::string text = fmt::format("{} ({})", hutch_error_message(error), hutch_error_remedy(error));
  hutch_error_free(error);
  throw BenchFailure(text);
}

hutch_shell* ready_shell(const artefacts::Parts& parts) {
  hutch_shell_options options{};
  options.size = sizeof options;
  options.log_fd = 2;
  options.vmm_path = parts.vmm.c_str();
  options.end_with_thread = 1;
  hutch_shell* shell = nullptr;
  hutch_error* error = nullptr;
  check(hutch_shell_start(&options, &shell, &error), error);
  timespec time{.tv_sec = 0, .tv_nsec = kShellReadyNs};
  ::nanosleep(&time, nullptr);
  return shell;
}

Machine::Machine(const artefacts::Parts& parts, uint64_t memory, const SavedMachine* saved,
                 uint32_t cpus, const Prepared& prepared) {
  hutch_disk root{}, layer{};
  root.size = layer.size = sizeof root;
  root.path = parts.image.c_str();
  root.read_only = 1;
  root.id = "root";
  layer.path = parts.layer.c_str();
  layer.layered = 1;
  layer.id = "layer";
  std::vector<int> frozen;
  if (saved != nullptr)
    for (const Fd& each : saved->layers) frozen.push_back(each.get());
  layer.layers = frozen.data();
  layer.layer_count = frozen.size();
  const hutch_disk* disks[] = {&root, &layer};
  std::string words = fmt::format("{} {}", artefacts::kKernelWords, artefacts::kRootWords);
  hutch_saved_machine restore{};
  hutch_vm_options options{};
  options.size = sizeof options;
  options.cpus = cpus;
  options.memory = memory;
  if (saved != nullptr) {
    restore.size = sizeof restore;
    restore.memory_fd = saved->memory.get();
    restore.state_fd = saved->state.get();
    std::copy(std::begin(saved->key), std::end(saved->key), restore.key);
    if (prepared.has_pages) restore.pages_fd = saved->pages.get();
    options.restore = &restore;
  } else {
    options.kernel = parts.kernel.c_str();
    options.initramfs = parts.initramfs.c_str();
    options.command_line = words.c_str();
  }
  options.disks = disks;
  options.disk_count = 2;
  options.scratch_directory = parts.scratch.c_str();
  options.agent_timeout_ms = artefacts::boot_timeout_s() * 1000;
  options.host_name = "hutch";
  options.log_fd = 2;
  options.vmm_path = parts.vmm.c_str();
  options.end_with_thread = 1;
  options.shell = prepared.shell;
  hutch_error* error = nullptr;
  check(hutch_vm_start(&options, &vm_, &error), error);
}

Machine::~Machine() {
  hutch_vm_free(vm_);
}

uint64_t Machine::echo() {
  return echo_by(agent(), [this](hutch_task task, const IsDone& is_done) { wait(task, is_done); });
}

std::string Machine::output(const char* const* arguments) {
  return output_by(agent(), arguments,
                   [this](hutch_task task, const IsDone& is_done) { wait(task, is_done); });
}

SavedMachine Machine::save(const std::string& folder) {
  SavedMachine saved;
  saved.memory = new_file(folder);
  saved.state = new_file(folder);
  if (::getrandom(saved.key, sizeof saved.key, 0) != sizeof saved.key)
    throw BenchFailure("the host has no random numbers");
  hutch_error* error = nullptr;
  uint64_t start = monotonic_ns();
  check(hutch_vm_pause(vm_, &error), error);
  wait(0, [](const hutch_event& event) { return event.kind == HUTCH_EVENT_PAUSED; });
  check(hutch_vm_save(vm_, saved.memory.get(), saved.state.get(), saved.key, &error), error);
  wait(0, [&](const hutch_event& event) {
    if (event.kind != HUTCH_EVENT_SAVED) return false;
    if (*event.message != '\0') throw BenchFailure(event.message);
    saved.memory_bytes = event.transferred;
    return true;
  });
  const int* layers = nullptr;
  size_t count = 0;
  check(hutch_vm_disk_layers(vm_, kLayer, &layers, &count, &error), error);
  for (size_t i = 0; i < count; i++) {
    saved.layers.emplace_back(::fcntl(layers[i], F_DUPFD_CLOEXEC, 0));
    if (!saved.layers.back()) throw BenchFailure("no free file descriptor");
  }
  check(hutch_vm_resume(vm_, &error), error);
  wait(0, [](const hutch_event& event) { return event.kind == HUTCH_EVENT_RESUMED; });
  paused_ns_ = monotonic_ns() - start;
  return saved;
}

Fd Machine::record_pages(const std::string& folder) {
  Fd file = new_file(folder);
  hutch_error* error = nullptr;
  check(hutch_vm_record_pages(vm_, file.get(), &error), error);
  wait(0, [&](const hutch_event& event) {
    if (event.kind != HUTCH_EVENT_PAGES_RECORDED) return false;
    if (*event.message != '\0') throw BenchFailure(event.message);
    return true;
  });
  return file;
}

void Machine::wait(hutch_task task, const std::function<bool(const hutch_event&)>& is_done) {
  for (;;) {
    throw_if_interrupted();
    hutch_event* event = nullptr;
    hutch_error* error = nullptr;
    check(hutch_vm_next_event(vm_, &event, &error), error);
    if (event == nullptr) {
      pollfd ready{hutch_vm_event_fd(vm_), POLLIN, 0};
      if (::poll(&ready, 1, kAnswerMs) == 0) throw BenchFailure("the machine does not answer");
      continue;
    }
    std::unique_ptr<hutch_event, decltype(&hutch_event_free)> owner(event, hutch_event_free);
    if (event->kind == HUTCH_EVENT_ENDED || event->kind == HUTCH_EVENT_AGENT_LOST ||
        event->kind == HUTCH_EVENT_FAILED)
      throw BenchFailure(fmt::format("the machine: {}", event->message));
    if (event->kind == HUTCH_EVENT_MARK && event->mark < 8)
      marks_[event->mark] = event->monotonic_ns;
    if (event->task == task && is_done(*event)) return;
  }
}

std::map<std::string, uint64_t> Machine::counters() {
  std::map<std::string, uint64_t> counters;
  hutch_error* error = nullptr;
  check(hutch_vm_query(vm_, &error), error);
  wait(0, [&](const hutch_event& event) {
    if (event.kind != HUTCH_EVENT_REPORT) return false;
    for (size_t i = 0; i < event.counter_count; i++)
      counters[event.counters[i].name] = event.counters[i].value;
    return true;
  });
  return counters;
}

uint64_t Machine::private_kib() const {
  std::ifstream rollup(fmt::format("/proc/{}/smaps_rollup", hutch_vm_process_id(vm_)));
  uint64_t sum = 0;
  for (std::string line; std::getline(rollup, line);)
    // Pages of the template count as private when nobody else has them mapped just now, and as
    // dirty when they were never on a disk; what was copied, because it was written to, is
    // anonymous.
    if (line.starts_with("Anonymous:") || line.starts_with("Swap:"))
      sum += std::stoull(line.substr(line.find(':') + 1));
  return sum;
}

}  // namespace hutch::bench
