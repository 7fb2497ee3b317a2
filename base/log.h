// Log lines on standard error: `hutch-vmm: warning: text`, one write each.
//
// Lines that a guest can cause carry a RateLimit, so that a hostile guest cannot fill a disk.
#pragma once

#include <fmt/format.h>

#include <atomic>
#include <cstdint>
#include <string_view>

namespace hutch {

enum class LogLevel { kError, kWarning, kInfo, kDebug };

// Set once at the start of a process, before other threads exist. `program` must outlive the
// process.
void set_log_program(const char* program);
void set_log_level(LogLevel level);
bool log_enabled(LogLevel level);
// Writes one line; any thread.
void log_line(LogLevel level, std::string_view text);

template <typename... Args>
void log_error(fmt::format_string<Args...> format, Args&&... args) {
  if (log_enabled(LogLevel::kError))
    log_line(LogLevel::kError, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void log_warning(fmt::format_string<Args...> format, Args&&... args) {
  if (log_enabled(LogLevel::kWarning))
    log_line(LogLevel::kWarning, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  if (log_enabled(LogLevel::kInfo))
    log_line(LogLevel::kInfo, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void log_debug(fmt::format_string<Args...> format, Args&&... args) {
  if (log_enabled(LogLevel::kDebug))
    log_line(LogLevel::kDebug, fmt::format(format, std::forward<Args>(args)...));
}

// Lets the first `burst` events through, then one per second; counts what it holds back.
// One per call site or device; any thread.
class RateLimit {
 public:
  explicit RateLimit(uint32_t burst) : burst_(burst) {}
  bool allow();
  uint64_t suppressed() const { return suppressed_.load(std::memory_order_relaxed); }

 private:
  const uint32_t burst_;
  std::atomic<uint32_t> used_{0};
  std::atomic<int64_t> last_second_{0};
  std::atomic<uint64_t> suppressed_{0};
};

}  // namespace hutch
