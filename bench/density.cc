#include "bench/density.h"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <barrier>
#include <exception>
#include <filesystem>
#include <fstream>
#include <memory>
#include <mutex>
#include <numeric>
#include <set>
#include <sstream>
#include <thread>
#include <vector>

#include "base/sys.h"
#include "bench/interrupt.h"
#include "bench/machine.h"
#include "bench/results.h"
#include "bench/statistics.h"
#include "bench/subject.h"

namespace hutch::bench {
namespace {

using nlohmann::json;

constexpr const char* kBoot = "cold boot";
constexpr uint32_t kBoots = 3;
constexpr uint32_t kAlone = 10;
// Until what the kernel does after a process has ended has been done.
constexpr int kGoneMs = 10'000;

double ms_since(uint64_t start) {
  return static_cast<double>(monotonic_ns() - start) / 1e6;
}

// What the host can still give, in KiB.
double available_kib() {
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("MemAvailable:")) return std::stod(line.substr(line.find(':') + 1));
  throw BenchFailure("/proc/meminfo has no MemAvailable");
}

size_t open_files() {
  auto files = std::filesystem::directory_iterator("/proc/self/fd");
  return static_cast<size_t>(std::distance(begin(files), end(files)));
}

// What must be no other machine's.
std::vector<std::string> identity(Machine& machine) {
  const char* arguments[] = {"/bin/sh", "-c",
                             "cat /proc/sys/kernel/random/boot_id /etc/machine-id; "
                             "head -c 16 /dev/urandom | od -An -tx1",
                             nullptr};
  std::istringstream text(machine.output(arguments));
  std::vector<std::string> lines;
  for (std::string line; std::getline(text, line);) lines.push_back(line);
  if (lines.size() != 3) throw BenchFailure("a machine does not say who it is");
  return lines;
}

// Runs `body` on `count` threads that begin at once; throws what one of them has thrown.
void in_threads(uint32_t count, const std::function<void()>& body) {
  std::mutex mutex;
  std::exception_ptr failure;
  std::barrier start(count);
  std::vector<std::thread> threads;
  for (uint32_t i = 0; i < count; i++)
    threads.emplace_back([&] {
      start.arrive_and_wait();
      try {
        body();
      } catch (...) {
        std::lock_guard lock(mutex);
        failure = std::current_exception();
      }
    });
  for (std::thread& thread : threads) thread.join();
  if (failure) std::rethrow_exception(failure);
}

class Density {
 public:
  explicit Density(const DensityOptions& options) : options_(options) {
    Result<artefacts::Parts> parts =
        artefacts::find_parts(options.image, *artefacts::find_shared(artefacts::kLayerFile));
    if (!parts) throw BenchFailure(parts.error().text());
    parts_ = *std::move(parts);
    show_progress("saving a machine");
    auto original = machine(false);
    original->echo();
    saved_ = original->save(parts_.scratch);
  }

  void idle() {
    double before = available_kib();
    size_t files = open_files();
    std::vector<std::unique_ptr<Machine>> all;
    std::vector<int> processes;
    std::vector<std::set<std::string>> seen(3);
    std::vector<double> reply_ms;
    double own_kib = 0;
    while (all.size() < options_.most && own_kib < options_.limit_mib * 1024.0) {
      show_progress(fmt::format("idle fork {} of at most {}", all.size() + 1, options_.most));
      uint64_t start = monotonic_ns();
      all.push_back(machine(true));
      all.back()->echo();
      reply_ms.push_back(ms_since(start));
      own_kib += static_cast<double>(all.back()->private_kib());
      processes.push_back(hutch_vm_process_id(all.back()->vm()));
      std::vector<std::string> lines = identity(*all.back());
      for (size_t i = 0; i < lines.size(); i++)
        if (!seen[i].insert(lines[i]).second)
          throw BenchFailure(fmt::format("two forks have the same identity: {}", lines[i]));
    }
    std::vector<double> private_kib;
    for (const auto& each : all) private_kib.push_back(static_cast<double>(each->private_kib()));
    double host_kib = (before - available_kib()) / static_cast<double>(all.size());
    uint64_t start = monotonic_ns();
    all.clear();
    double teardown_ms = ms_since(start) / static_cast<double>(processes.size());
    check_gone(processes, files);

    std::vector<double> boot_kib, boot_host_kib, boot_ms;
    for (uint32_t i = 0; i < kBoots; i++) {
      show_progress(fmt::format("boot {} of {}", i + 1, kBoots));
      before = available_kib();
      start = monotonic_ns();
      auto booted = machine(false);
      booted->echo();
      boot_ms.push_back(ms_since(start));
      boot_kib.push_back(static_cast<double>(booted->private_kib()));
      boot_host_kib.push_back(before - available_kib());
    }
    list_.push_back(result_entry("idle_private_kib", "KiB", private_kib, boot_kib, kBoot));
    list_.push_back(result_entry("idle_host_kib", "KiB", {host_kib}, boot_host_kib, kBoot));
    list_.push_back(result_entry("idle_reply", "ms", reply_ms, boot_ms, kBoot));
    notes_.push_back(fmt::format(
        "{} idle forks, {:.0f} MiB of their own; no two with the same boot_id, machine-id or "
        "random "
        "numbers; teardown {:.1f} ms each; no process and no open file is left",
        processes.size(), std::accumulate(private_kib.begin(), private_kib.end(), 0.0) / 1024,
        teardown_ms));
  }

  void burst() {
    std::vector<double> alone, together;
    for (uint32_t i = 0; i < kAlone; i++) alone.push_back(one(true));
    show_progress(fmt::format("a burst of {}", options_.burst));
    std::mutex mutex;
    std::barrier all_answered(options_.burst);
    in_threads(options_.burst, [&] {
      uint64_t start = monotonic_ns();
      std::unique_ptr<Machine> fork;
      try {
        fork = machine(true);
        fork->echo();
      } catch (...) {
        all_answered.arrive_and_drop();
        throw;
      }
      double took = ms_since(start);
      all_answered.arrive_and_wait();
      std::lock_guard lock(mutex);
      together.push_back(took);
    });
    list_.push_back(result_entry("burst_reply", "ms", together, alone, "one at a time"));
    notes_.push_back(fmt::format("a burst of {}: p99 {:.2f} times p50", options_.burst,
                                 percentile(together, 0.99) / percentile(together, 0.5)));
  }

  // Made, asked and destroyed, one after another on each CPU.
  void rate() {
    auto cpus = static_cast<uint32_t>(std::max(1l, ::sysconf(_SC_NPROCESSORS_ONLN)));
    size_t files = open_files();
    auto per_second = [&](bool fork, const char* what) {
      std::mutex mutex;
      uint64_t count = 0, begin = monotonic_ns(),
               until = begin + options_.seconds * 1'000'000'000ull;
      in_threads(cpus, [&] {
        do {
          one(fork);
          std::lock_guard lock(mutex);
          show_progress(fmt::format("{} {}", what, ++count));
        } while (monotonic_ns() < until);
      });
      total_ += count;
      return static_cast<double>(count) * 1000 / ms_since(begin) / cpus;
    };
    double forks = per_second(true, "fork");
    double boots = per_second(false, "boot");
    check_gone({}, files);
    list_.push_back(result_entry("creates", "1/s/core", {forks}, {boots}, kBoot));
    notes_.push_back(fmt::format(
        "{} machines made, asked and destroyed on {} CPUs: nothing is left", total_, cpus));
  }

  void print() const {
    show_progress("");
    print_place();
    fmt::print("\n{} MiB, 2 CPUs\n", options_.memory_mib);
    print_entries(list_);
    for (const std::string& note : notes_) fmt::print("{}\n", note);
    if (!options_.json_file.empty()) write_results(list_, options_.json_file);
  }

 private:
  std::unique_ptr<Machine> machine(bool fork) const {
    return std::make_unique<Machine>(parts_, uint64_t{options_.memory_mib} << 20,
                                     fork ? &saved_ : nullptr);
  }
  // Milliseconds to the answer; it is gone then.
  double one(bool fork) const {
    throw_if_interrupted();
    uint64_t start = monotonic_ns();
    auto made = machine(fork);
    made->echo();
    return ms_since(start);
  }
  static void check_gone(const std::vector<int>& processes, size_t files) {
    uint64_t end = monotonic_ns() + kGoneMs * 1'000'000ull;
    auto is_gone = [&] {
      return open_files() <= files && std::all_of(processes.begin(), processes.end(),
                                                  [](int id) { return ::kill(id, 0) < 0; });
    };
    while (!is_gone()) {
      if (monotonic_ns() > end)
        throw BenchFailure(
            fmt::format("something is left: {} open files, and {} before", open_files(), files));
      ::usleep(10'000);
    }
  }

  const DensityOptions& options_;
  artefacts::Parts parts_;
  SavedMachine saved_;
  json list_ = json::array();
  std::vector<std::string> notes_;
  uint64_t total_ = 0;
};

}  // namespace

void measure_density(const DensityOptions& options) {
  Density density(options);
  density.idle();
  density.burst();
  density.rate();
  density.print();
}

}  // namespace hutch::bench
