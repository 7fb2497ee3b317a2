// A machine of libhutch, and its agent.
#include <hutch.h>

#include <functional>

#include "artefacts/artefacts.h"
#include "base/sys.h"
#include "bench/machine.h"
#include "bench/subject.h"

namespace hutch::bench {
namespace {

constexpr const char* kFile = "/home/app/hutch-bench";
constexpr const char* kUser = "app";
// As a sandbox of the server has it.
constexpr uint64_t kMemory = uint64_t{1280} << 20;

hutch_file_options the_file() {
  hutch_file_options file{};
  file.size = sizeof file;
  file.path = kFile;
  file.user = kUser;
  return file;
}

class AgentSubject final : public Subject {
 public:
  explicit AgentSubject(const artefacts::Parts& parts) : machine_(parts, kMemory) {}

  uint64_t echo() override { return machine_.echo(); }

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
  hutch_agent* agent() { return machine_.agent(); }
  void wait(const std::function<bool(const hutch_event&)>& is_done) {
    machine_.wait(task_, is_done);
  }

  Machine machine_;
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
