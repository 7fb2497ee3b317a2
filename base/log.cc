#include "base/log.h"

#include <time.h>
#include <unistd.h>

#include <string>

namespace hutch {
namespace {

const char* program_name = "hutch";
LogLevel log_level = LogLevel::kWarning;

const char* level_name(LogLevel level) {
  switch (level) {
    case LogLevel::kError:
      return "error";
    case LogLevel::kWarning:
      return "warning";
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kDebug:
      return "debug";
  }
  return "?";
}

}  // namespace

void set_log_program(const char* program) {
  program_name = program;
}
void set_log_level(LogLevel level) {
  log_level = level;
}
bool log_enabled(LogLevel level) {
  return level <= log_level;
}

void log_line(LogLevel level, std::string_view text) {
  std::string line = fmt::format("{}: {}: {}\n", program_name, level_name(level), text);
  // A log that cannot be written must not stop what it describes.
  [[maybe_unused]] ssize_t written = ::write(STDERR_FILENO, line.data(), line.size());
}

bool RateLimit::allow() {
  uint32_t used = used_.load(std::memory_order_relaxed);
  while (used < burst_) {
    if (used_.compare_exchange_weak(used, used + 1, std::memory_order_relaxed)) return true;
  }
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  int64_t last = last_second_.load(std::memory_order_relaxed);
  if (now.tv_sec > last &&
      last_second_.compare_exchange_strong(last, now.tv_sec, std::memory_order_relaxed)) {
    return true;
  }
  suppressed_.fetch_add(1, std::memory_order_relaxed);
  return false;
}

}  // namespace hutch
