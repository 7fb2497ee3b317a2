#include "bench/marks.h"

#include <fmt/format.h>

#include "bench/statistics.h"

namespace hutch::bench {
namespace {

constexpr std::string_view kStep = "start_ns/";
constexpr const char* kExits = "user_exits_until_init";

}  // namespace

void add_marks(Values& values, Machine& machine, uint64_t start) {
  auto add = [&](const char* row, hutch_mark mark) {
    if (machine.mark(mark)) values[row] = ms_since(start, *machine.mark(mark));
  };
  for (const auto& [name, count] : machine.counters()) {
    if (is_step(name)) values[name] = static_cast<double>(count) / 1e6;
    if (name == kExits) values[name] = static_cast<double>(count);
  }
  add(kFirstRun, HUTCH_MARK_FIRST_RUN);
  add("kernel", HUTCH_MARK_KERNEL);
  add("init", HUTCH_MARK_INIT);
  add("agent", HUTCH_MARK_AGENT);
}

bool is_step(std::string_view row) {
  return row.starts_with(kStep);
}

void print_marks(const Side& side, const char* reply) {
  const std::pair<const char*, const char*> marks[] = {
      {"T1 first KVM_RUN", kFirstRun}, {"T2 first exit", "kernel"}, {"T3 init", "init"},
      {"T4 agent", "agent"},           {"T5 reply", reply},         {"T6 gone, after T5", "gone"}};
  fmt::print("ours, from T0, before the process      p50 ms    p90 ms    p99 ms\n");
  for (const auto& [title, row] : marks)
    if (side.values.contains(row))
      fmt::print("{:36}{:10.3f}{:10.3f}{:10.3f}\n", title, percentile(side.of(row), 0.5),
                 percentile(side.of(row), 0.9), percentile(side.of(row), 0.99));
  fmt::print("within T1, in the VMM:");
  for (const auto& [row, values] : side.values)
    if (is_step(row)) fmt::print(" {} {:.3f}", row.substr(kStep.size()), median(values));
  fmt::print(" ms\n");
  if (side.values.contains(kExits))
    fmt::print("exits to the VMM until init: {:.0f}\n", median(side.of(kExits)));
}

}  // namespace hutch::bench
