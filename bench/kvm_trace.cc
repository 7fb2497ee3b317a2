#include "bench/kvm_trace.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <sstream>

#include "base/sys.h"

namespace hutch::bench {
namespace {

constexpr size_t kLimit = 1 << 20;
constexpr const char* kEntry = "events/kvm/kvm_entry";
constexpr const char* kExit = "events/kvm/kvm_userspace_exit";

}  // namespace

std::optional<uint64_t> first_entry_in(const std::string& trace) {
  std::istringstream lines(trace);
  for (std::string line; std::getline(lines, line);) {
    // `TASK-PID [CPU] FLAGS SECONDS.MICROSECONDS: kvm_entry: ...`
    size_t event = line.find(": kvm_entry:");
    if (line.starts_with("#") || event == std::string::npos) continue;
    size_t begin = line.rfind(' ', event - 1);
    unsigned long long seconds = 0, microseconds = 0;
    if (begin == std::string::npos ||
        std::sscanf(line.c_str() + begin, "%llu.%6llu:", &seconds, &microseconds) != 2)
      continue;
    return seconds * 1'000'000'000 + microseconds * 1000;
  }
  return std::nullopt;
}

std::optional<uint64_t> hits_in(const std::string& histogram) {
  size_t at = histogram.find("Hits:");
  unsigned long long hits = 0;
  if (at == std::string::npos || std::sscanf(histogram.c_str() + at, "Hits: %llu", &hits) != 1)
    return std::nullopt;
  return hits;
}

bool KvmTrace::write(const char* file, const char* text) const {
  // Truncation forgets what `trace` holds; of a file of triggers it would remove them.
  int flags = std::string_view(file) == "trace" ? O_WRONLY | O_TRUNC : O_WRONLY;
  Result<Fd> opened = open_file(fmt::format("{}/{}", folder_, file), flags);
  return opened &&
         write_all(opened->get(), std::as_bytes(std::span(text, std::string_view(text).size())))
             .has_value();
}

std::unique_ptr<KvmTrace> KvmTrace::create() {
  std::string folder = fmt::format("/sys/kernel/tracing/instances/hutch-bench-{}", ::getpid());
  if (::mkdir(folder.c_str(), 0700) < 0) return nullptr;
  std::unique_ptr<KvmTrace> trace(new KvmTrace(std::move(folder)));
  // The first entry is wanted: a page of them is kept, and what follows is not.
  bool good = trace->write("tracing_on", "0") && trace->write("trace_clock", "mono") &&
              trace->write("buffer_size_kb", "4") && trace->write("options/overwrite", "0") &&
              trace->write(fmt::format("{}/enable", kEntry).c_str(), "1") &&
              trace->write(fmt::format("{}/trigger", kExit).c_str(), "hist:keys=reason");
  return good ? std::move(trace) : nullptr;
}

KvmTrace::~KvmTrace() {
  write(fmt::format("{}/trigger", kExit).c_str(), "!hist:keys=reason");
  write(fmt::format("{}/enable", kEntry).c_str(), "0");
  ::rmdir(folder_.c_str());
}

void KvmTrace::begin() {
  write("tracing_on", "0");
  write("trace", "");
  write(fmt::format("{}/trigger", kExit).c_str(), "hist:keys=reason:clear");
  write("tracing_on", "1");
}

std::optional<uint64_t> KvmTrace::first_entry_ns() const {
  Result<std::string> text = read_file(folder_ + "/trace", kLimit);
  return text ? first_entry_in(*text) : std::nullopt;
}

std::optional<uint64_t> KvmTrace::user_exits() const {
  Result<std::string> text = read_file(fmt::format("{}/{}/hist", folder_, kExit), kLimit);
  return text ? hits_in(*text) : std::nullopt;
}

}  // namespace hutch::bench
