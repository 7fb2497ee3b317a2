#include "bench/results.h"

#include <fmt/format.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <fstream>

#include "artefacts/artefacts.h"
#include "bench/subject.h"

namespace hutch::bench {

using nlohmann::json;

json result_entry(const std::string& name, const char* unit, const std::vector<double>& ours,
                  const std::vector<double>& peer, const char* peer_name) {
  Ratio ratio = ratio_of_medians(ours, peer);
  return {{"name", name},
          {"unit", unit},
          {"clock", "monotonic"},
          {"n", ours.size()},
          {"ours", median(ours)},
          {"p50", percentile(ours, 0.5)},
          {"p99", percentile(ours, 0.99)},
          {"peer", median(peer)},
          {"peer_name", peer_name},
          {"ratio", {{"median", ratio.median}, {"low", ratio.low}, {"high", ratio.high}}}};
}

void write_results(const json& list, const std::string& path) {
  std::ofstream file(path);
  file << list.dump(2) << "\n";
  file.close();
  if (!file) throw BenchFailure(fmt::format("{} cannot be written", path));
}

void print_place() {
  utsname name{};
  ::uname(&name);
  fmt::print("{}, Linux {}, {} CPUs\n",
             artefacts::is_in_machine() ? "the emulated machine: software, so only the ratios tell"
                                        : "this host's KVM",
             name.release, ::sysconf(_SC_NPROCESSORS_ONLN));
}

std::string show(const Ratio& ratio) {
  return fmt::format("{:.2f} ({:.2f} to {:.2f})", ratio.median, ratio.low, ratio.high);
}

void show_progress(const std::string& text) {
  if (::isatty(STDERR_FILENO) == 1) fmt::print(stderr, "\r\033[K{}", text);
}

}  // namespace hutch::bench
