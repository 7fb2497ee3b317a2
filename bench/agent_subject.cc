// A machine of libhutch, and its agent.
#include <hutch.h>
#include <poll.h>

#include <functional>

#include "artefacts/artefacts.h"
#include "base/sys.h"
#include "bench/interrupt.h"
#include "bench/subject.h"

namespace hutch::bench {
namespace {

constexpr const char* kFile = "/home/app/hutch-bench";
constexpr const char* kUser = "app";
constexpr int kAnswerMs = 120'000;

hutch_file_options the_file() {
  hutch_file_options file{};
  file.size = sizeof file;
  file.path = kFile;
  file.user = kUser;
  return file;
}

void check(int code, hutch_error* error) {
  if (code == HUTCH_OK) return;
  std::string text = fmt::format("{} ({})", hutch_error_message(error), hutch_error_remedy(error));
  hutch_error_free(error);
  throw BenchFailure(text);
}

class AgentSubject final : public Subject {
 public:
  explicit AgentSubject(const artefacts::Parts& parts) {
    hutch_disk root{}, layer{};
    root.size = layer.size = sizeof root;
    root.path = parts.image.c_str();
    root.read_only = 1;
    layer.path = parts.layer.c_str();
    layer.private_copy = 1;
    layer.extents = parts.layer_extents.empty() ? nullptr : parts.layer_extents.data();
    layer.extent_count = parts.layer_extents.size() / 2;
    const hutch_disk* disks[] = {&root, &layer};
    std::string words = fmt::format("{} {}", artefacts::kKernelWords, artefacts::kRootWords);
    hutch_vm_options options{};
    options.size = sizeof options;
    // As a sandbox of the server has it.
    options.cpus = 2;
    options.memory = uint64_t{1280} << 20;
    options.kernel = parts.kernel.c_str();
    options.initramfs = parts.initramfs.c_str();
    options.command_line = words.c_str();
    options.disks = disks;
    options.disk_count = 2;
    options.scratch_directory = parts.scratch.c_str();
    options.agent_timeout_ms = artefacts::boot_timeout_s() * 1000;
    options.host_name = "hutch";
    options.log_fd = 2;
    options.vmm_path = parts.vmm.c_str();
    options.end_with_thread = 1;
    hutch_error* error = nullptr;
    check(hutch_vm_start(&options, &vm_, &error), error);
  }
  ~AgentSubject() override { hutch_vm_free(vm_); }

  uint64_t echo() override {
    const char* arguments[] = {"/bin/echo", "hello", nullptr};
    hutch_process_options process{};
    process.size = sizeof process;
    process.arguments = arguments;
    process.user = kUser;
    std::string output;
    int open_streams = 2;
    bool exited = false;
    hutch_error* error = nullptr;
    uint64_t start = monotonic_ns();
    check(hutch_process_start(agent(), &process, &task_, &error), error);
    wait([&](const hutch_event& event) {
      if (event.kind == HUTCH_EVENT_OUTPUT)
        output.append(static_cast<const char*>(event.data), event.data_size);
      if (event.kind == HUTCH_EVENT_OUTPUT_END) open_streams--;
      if (event.kind == HUTCH_EVENT_EXITED) {
        exited = true;
        if (event.signaled != 0 || event.value != 0) throw BenchFailure("echo failed in the guest");
      }
      return exited && open_streams == 0;
    });
    uint64_t end = monotonic_ns();
    if (output != "hello\n") throw BenchFailure("echo said something else in the guest");
    return end - start;
  }

  uint64_t write_file(uint64_t size) override {
    std::string content = file_content(size);
    hutch_file_options file = the_file();
    hutch_error* error = nullptr;
    uint64_t start = monotonic_ns();
    check(hutch_file_write(agent(), &file, &task_, &error), error);
    size_t sent = 0;
    bool is_closed = false;
    auto send = [&] {
      size_t taken = 0;
      hutch_error* failure = nullptr;
      check(hutch_task_write(agent(), task_, content.data() + sent, content.size() - sent, &taken,
                             &failure),
            failure);
      sent += taken;
      if (sent < content.size() || is_closed) return;
      is_closed = true;
      check(hutch_task_close_input(agent(), task_, &failure), failure);
    };
    send();
    wait([&](const hutch_event& event) {
      if (event.kind == HUTCH_EVENT_WRITABLE) send();
      return event.kind == HUTCH_EVENT_DONE;
    });
    return monotonic_ns() - start;
  }

  uint64_t read_file(uint64_t size) override {
    hutch_file_options file = the_file();
    std::string content;
    hutch_error* error = nullptr;
    uint64_t start = monotonic_ns();
    check(hutch_file_read(agent(), &file, &task_, &error), error);
    wait([&](const hutch_event& event) {
      if (event.kind == HUTCH_EVENT_OUTPUT)
        content.append(static_cast<const char*>(event.data), event.data_size);
      return event.kind == HUTCH_EVENT_DONE;
    });
    uint64_t end = monotonic_ns();
    if (content != file_content(size)) throw BenchFailure("the agent read the file otherwise");
    return end - start;
  }

 private:
  hutch_agent* agent() { return hutch_vm_agent(vm_); }

  // Passes the task's events on until `is_done` says so.
  void wait(const std::function<bool(const hutch_event&)>& is_done) {
    for (;;) {
      throw_if_interrupted();
      hutch_event* event = nullptr;
      hutch_error* error = nullptr;
      check(hutch_vm_next_event(vm_, &event, &error), error);
      if (event == nullptr) {
        pollfd ready{hutch_vm_event_fd(vm_), POLLIN, 0};
        if (::poll(&ready, 1, kAnswerMs) == 0) throw BenchFailure("the agent does not answer");
        continue;
      }
      std::unique_ptr<hutch_event, decltype(&hutch_event_free)> owner(event, hutch_event_free);
      if (event->kind == HUTCH_EVENT_ENDED || event->kind == HUTCH_EVENT_AGENT_LOST ||
          event->kind == HUTCH_EVENT_FAILED)
        throw BenchFailure(fmt::format("the machine: {}", event->message));
      if (event->task == task_ && is_done(*event)) return;
    }
  }

  hutch_vm* vm_ = nullptr;
  hutch_task task_ = 0;
};

}  // namespace

std::unique_ptr<Subject> make_agent_subject(const ExecOptions& options) {
  Result<artefacts::Parts> parts =
      artefacts::find_parts(options.image, *artefacts::find_shared(artefacts::kLayerFile));
  if (!parts) throw BenchFailure(parts.error().text());
  return std::make_unique<AgentSubject>(*parts);
}

}  // namespace hutch::bench
