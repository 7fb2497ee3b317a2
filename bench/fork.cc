#include "bench/fork.h"

#include <fmt/format.h>

#include <memory>
#include <vector>

#include "base/sys.h"
#include "bench/interrupt.h"
#include "bench/machine.h"
#include "bench/results.h"
#include "bench/subject.h"

namespace hutch::bench {
namespace {

using nlohmann::json;

constexpr const char* kBoot = "cold boot";

// Of all machines that came to be in one way.
struct Way {
  std::vector<double> reply_ms;  // from before the VMM's process to the answer to `echo`
  std::vector<double> private_kib;
  std::vector<double> user_exits;

  void add(const artefacts::Parts& parts, uint64_t memory, const SavedMachine* saved) {
    throw_if_interrupted();
    uint64_t start = monotonic_ns();
    Machine machine(parts, memory, saved);
    machine.echo();
    reply_ms.push_back(static_cast<double>(monotonic_ns() - start) / 1e6);
    private_kib.push_back(static_cast<double>(machine.private_kib()));
    hutch_error* error = nullptr;
    check(hutch_vm_query(machine.vm(), &error), error);
    machine.wait(0, [&](const hutch_event& event) {
      if (event.kind != HUTCH_EVENT_REPORT) return false;
      double exits = 0;
      for (size_t i = 0; i < event.counter_count; i++)
        if (std::string_view(event.counters[i].name) == "user_exits")
          exits = static_cast<double>(event.counters[i].value);
      user_exits.push_back(exits);
      return true;
    });
  }
};

}  // namespace

void measure_fork(const ForkOptions& options) {
  Result<artefacts::Parts> parts =
      artefacts::find_parts(options.image, *artefacts::find_shared(artefacts::kLayerFile));
  if (!parts) throw BenchFailure(parts.error().text());
  uint64_t memory = uint64_t{options.memory_mib} << 20;
  show_progress("saving a machine");
  SavedMachine saved;
  double paused_ms = 0;
  {
    Machine original(*parts, memory);
    original.echo();
    saved = original.save(parts->scratch);
    paused_ms = static_cast<double>(original.paused_ns()) / 1e6;
    original.echo();  // it goes on
  }
  Way boots, forks;
  while (forks.reply_ms.size() < options.count) {
    show_progress(fmt::format("pair {} of {}", forks.reply_ms.size(), options.count));
    boots.add(*parts, memory, nullptr);
    forks.add(*parts, memory, &saved);
    if (forks.reply_ms.size() == options.count) break;
    forks.add(*parts, memory, &saved);
    boots.add(*parts, memory, nullptr);
  }
  show_progress("");
  json list = json::array();
  list.push_back(result_entry("reply_fork", "ms", forks.reply_ms, boots.reply_ms, kBoot));
  list.push_back(
      result_entry("private_kib_per_fork", "KiB", forks.private_kib, boots.private_kib, kBoot));
  list.push_back(
      result_entry("user_exits_per_fork", "exits", forks.user_exits, boots.user_exits, kBoot));
  print_place();
  fmt::print("\n{} MiB, 2 CPUs, {} pairs; the template: {:.1f} MiB, made in {:.1f} ms\n",
             options.memory_mib, options.count, static_cast<double>(saved.memory_bytes) / 1048576,
             paused_ms);
  fmt::print("{:24}{:>12}{:>12}{:>12}   fork to boot (95 % interval)\n", "median", "boot", "fork",
             "fork p99");
  for (const json& entry : list)
    fmt::print(
        "{:24}{:12.2f}{:12.2f}{:12.2f}   {}\n",
        fmt::format("{} {}", entry["name"].get<std::string>(), entry["unit"].get<std::string>()),
        entry["peer"].get<double>(), entry["ours"].get<double>(), entry["p99"].get<double>(),
        show({entry["ratio"]["median"], entry["ratio"]["low"], entry["ratio"]["high"]}));
  if (!options.json_file.empty()) write_results(list, options.json_file);
}

}  // namespace hutch::bench
