#include "bench/results.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <fstream>

#include "artefacts/artefacts.h"
#include "bench/subject.h"

namespace hutch::bench {

using nlohmann::json;

namespace {

// The processor's name, as Linux has it.
std::string processor() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "unknown";
}

json place() {
  utsname name{};
  ::uname(&name);
  return {{"path", artefacts::is_in_machine() ? "emulated machine" : "this host's KVM"},
          {"kernel", name.release},
          {"processor", processor()},
          {"cpus", ::sysconf(_SC_NPROCESSORS_ONLN)}};
}

}  // namespace

json result_entry(const std::string& name, const char* unit, const std::vector<double>& ours,
                  const std::vector<double>& peer, const char* peer_name) {
  Ratio ratio = ratio_of_medians(ours, peer);
  return {{"name", name},
          {"unit", unit},
          {"clock", is_virtual_time() ? "virtual" : "monotonic"},
          {"n", ours.size()},
          {"ours", median(ours)},
          {"p50", percentile(ours, 0.5)},
          {"p90", percentile(ours, 0.9)},
          {"p99", percentile(ours, 0.99)},
          {"peer", median(peer)},
          {"peer_p90", percentile(peer, 0.9)},
          {"peer_p99", percentile(peer, 0.99)},
          {"peer_name", peer_name},
          {"place", place()},
          {"ratio", {{"median", ratio.median}, {"low", ratio.low}, {"high", ratio.high}}}};
}

bool is_virtual_time() {
  std::ifstream file("/proc/cmdline");
  std::string words;
  std::getline(file, words);
  return artefacts::is_in_machine() && words.find("hutch.clock=virtual") != std::string::npos;
}

Fd open_results(std::string& path) {
  if (path.empty()) return Fd();
  Fd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!file) throw BenchFailure(fmt::format("{} cannot be written", path));
  path = fmt::format("/proc/self/fd/{}", file.get());
  return file;
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
             is_virtual_time() ? "the emulated machine in virtual time"
             : artefacts::is_in_machine()
                 ? "the emulated machine: software, so only the ratios tell"
                 : "this host's KVM",
             name.release, ::sysconf(_SC_NPROCESSORS_ONLN));
}

void print_entries(const json& list) {
  fmt::print("{:18}{:>8}{:>10}{:>10}{:>10}{:>5}{:>11}   ours to the peer (95 % interval)\n", "",
             "unit", "p50", "p90", "p99", "n", "peer p50");
  for (const json& entry : list) {
    const json& ratio = entry["ratio"];
    fmt::print("{:18}{:>8}{:10.3f}{:10.3f}{:10.3f}{:5}{:11.3f}   {:.3f} ({:.3f} to {:.3f}), {}\n",
               entry["name"].get<std::string>(), entry["unit"].get<std::string>(),
               entry["p50"].get<double>(), entry["p90"].get<double>(), entry["p99"].get<double>(),
               entry["n"].get<size_t>(), entry["peer"].get<double>(), ratio["median"].get<double>(),
               ratio["low"].get<double>(), ratio["high"].get<double>(),
               entry["peer_name"].get<std::string>());
  }
}

std::string show(const Ratio& ratio) {
  return fmt::format("{:.2f} ({:.2f} to {:.2f})", ratio.median, ratio.low, ratio.high);
}

void show_progress(const std::string& text) {
  if (::isatty(STDERR_FILENO) == 1) fmt::print(stderr, "\r\033[K{}", text);
}

}  // namespace hutch::bench
