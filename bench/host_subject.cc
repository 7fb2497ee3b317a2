// posix_spawn and pipes on this host.
#include <unistd.h>

#include "base/sys.h"
#include "bench/child.h"
#include "bench/subject.h"

namespace hutch::bench {
namespace {

class HostSubject final : public Subject {
 public:
  HostSubject() {
    char name[] = "/tmp/hutch-bench-XXXXXX";
    int fd = ::mkstemp(name);
    if (fd < 0) throw BenchFailure("no file can be made in /tmp");
    ::close(fd);
    path_ = name;
  }
  ~HostSubject() override { ::unlink(path_.c_str()); }

  uint64_t echo() override {
    uint64_t start = monotonic_ns();
    Child child = start_child({"/bin/echo", "hello"});
    std::string output = read_to_end(child.output);
    int status = wait_for(child);
    uint64_t end = monotonic_ns();
    if (output != "hello\n" || status != 0) throw BenchFailure("echo did not work on this host");
    return end - start;
  }

  uint64_t write_file(uint64_t size) override {
    std::string content = file_content(size);
    uint64_t start = monotonic_ns();
    Child child = start_child({"/bin/sh", "-c", "exec cat >\"$0\"", path_}, true);
    bool written = write_all(child.input.get(), std::as_bytes(std::span(content))).has_value();
    child.input.reset();
    int status = wait_for(child);
    uint64_t end = monotonic_ns();
    if (!written || status != 0) throw BenchFailure(fmt::format("{} cannot be written", path_));
    return end - start;
  }

  uint64_t read_file(uint64_t size) override {
    uint64_t start = monotonic_ns();
    Child child = start_child({"/bin/cat", path_});
    std::string content = read_to_end(child.output);
    wait_for(child);
    uint64_t end = monotonic_ns();
    if (content != file_content(size))
      throw BenchFailure("the file was read otherwise on the host");
    return end - start;
  }

 private:
  std::string path_;
};

}  // namespace

std::unique_ptr<Subject> make_host_subject() {
  return std::make_unique<HostSubject>();
}

}  // namespace hutch::bench
