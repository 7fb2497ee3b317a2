#include "cli/syscall_counter.h"

#include <linux/perf_event.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <string>

#include "base/fd.h"
#include "base/sys.h"

namespace hutch::cli {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kDataPages = 32;  // 8192 records

std::optional<uint64_t> tracepoint_id() {
  for (const char* folder : {"/sys/kernel/tracing", "/sys/kernel/debug/tracing"}) {
    Result<std::string> text =
        read_file(std::string(folder) + "/events/raw_syscalls/sys_enter/id", 64);
    uint64_t id = 0;
    if (text && std::from_chars(text->data(), text->data() + text->size(), id).ec == std::errc())
      return id;
  }
  return std::nullopt;
}

}  // namespace

struct SyscallCounter::Ring {
  Fd event;
  void* memory = nullptr;
};

SyscallCounter::SyscallCounter() = default;

SyscallCounter::~SyscallCounter() {
  for (size_t i = 0; i < ring_count_; i++)
    if (rings_[i].memory != nullptr) ::munmap(rings_[i].memory, (1 + kDataPages) * kPage);
}

std::unique_ptr<SyscallCounter> SyscallCounter::create() {
  std::optional<uint64_t> id = tracepoint_id();
  long cpus = ::sysconf(_SC_NPROCESSORS_CONF);
  if (!id || cpus < 1) return nullptr;
  std::unique_ptr<SyscallCounter> counter(new SyscallCounter);
  counter->rings_ = std::make_unique<Ring[]>(static_cast<size_t>(cpus));
  for (long cpu = 0; cpu < cpus; cpu++) {
    perf_event_attr attributes{};
    attributes.size = sizeof attributes;
    attributes.type = PERF_TYPE_TRACEPOINT;
    attributes.config = *id;
    attributes.sample_period = 1;
    attributes.sample_type = PERF_SAMPLE_TIME;
    attributes.disabled = 1;
    attributes.inherit = 1;
    attributes.enable_on_exec = 1;
    attributes.use_clockid = 1;
    attributes.clockid = CLOCK_MONOTONIC;
    Ring& ring = counter->rings_[counter->ring_count_];
    ring.event = Fd(static_cast<int>(
        ::syscall(SYS_perf_event_open, &attributes, 0, cpu, -1, PERF_FLAG_FD_CLOEXEC)));
    if (!ring.event) {
      if (errno == ENODEV) continue;  // this CPU is offline
      return nullptr;
    }
    void* memory = ::mmap(nullptr, (1 + kDataPages) * kPage, PROT_READ | PROT_WRITE, MAP_SHARED,
                          ring.event.get(), 0);
    if (memory == MAP_FAILED) return nullptr;
    ring.memory = memory;
    counter->ring_count_++;
  }
  return counter;
}

std::optional<uint64_t> SyscallCounter::count_until(uint64_t until_ns) const {
  uint64_t count = 0;
  for (size_t i = 0; i < ring_count_; i++) {
    auto* control = static_cast<perf_event_mmap_page*>(rings_[i].memory);
    const auto* data = static_cast<const std::byte*>(rings_[i].memory) + kPage;
    uint64_t head = std::atomic_ref(control->data_head).load(std::memory_order_acquire);
    constexpr uint64_t kSize = kDataPages * kPage;
    uint64_t last = 0;
    for (uint64_t tail = 0; tail < head;) {
      perf_event_header header;
      std::memcpy(&header, data + tail % kSize, sizeof header);
      if (header.size == 0) return std::nullopt;
      uint64_t time = 0;
      // Records are multiples of 8 bytes, so neither part wraps around.
      std::memcpy(&time, data + (tail + sizeof header) % kSize, sizeof time);
      if (header.type == PERF_RECORD_LOST) return std::nullopt;
      if (header.type == PERF_RECORD_SAMPLE && time < until_ns) count++;
      last = std::max(last, time);
      tail += header.size;
    }
    // A full ring drops what comes after.
    if (head + kPage > kSize && last < until_ns) return std::nullopt;
  }
  return count;
}

}  // namespace hutch::cli
