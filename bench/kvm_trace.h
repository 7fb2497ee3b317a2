// What the host's kernel saw of a machine, whosever it is: its first entry into the guest, and how
// often a processor has left to its VMM. Tracing in an instance of our own (Linux
// Documentation/trace/events.rst and histogram.rst); needs root and tracefs.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

namespace hutch::bench {

class KvmTrace {
 public:
  // Null when this host does not let us.
  static std::unique_ptr<KvmTrace> create();
  ~KvmTrace();
  KvmTrace(const KvmTrace&) = delete;
  KvmTrace& operator=(const KvmTrace&) = delete;

  // Forgets what was seen. Machines of others on this host are seen, too.
  void begin();
  // Nanoseconds of CLOCK_MONOTONIC, to the microsecond; nothing: none since begin().
  std::optional<uint64_t> first_entry_ns() const;
  std::optional<uint64_t> user_exits() const;

 private:
  explicit KvmTrace(std::string folder) : folder_(std::move(folder)) {}
  bool write(const char* file, const char* text) const;

  std::string folder_;
};

// The two, out of the text of `trace` and `hist`.
std::optional<uint64_t> first_entry_in(const std::string& trace);
std::optional<uint64_t> hits_in(const std::string& histogram);

}  // namespace hutch::bench
