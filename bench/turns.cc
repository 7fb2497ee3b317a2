#include "bench/turns.h"

#include <fmt/format.h>

#include "bench/interrupt.h"
#include "bench/results.h"
#include "bench/statistics.h"

namespace hutch::bench {

void take_turns(std::vector<Side>& sides, uint32_t count) {
  auto turn = [](Side& side) {
    throw_if_interrupted();
    for (const auto& [row, value] : side.turn()) side.values[row].push_back(value);
  };
  for (Side& side : sides) {
    show_progress(fmt::format("warming up: {}", side.name));
    side.turn();
  }
  for (uint32_t i = 0; i < count; i++) {
    show_progress(fmt::format("turn {} of {}", i + 1, count));
    if (i % 2 == 0)
      for (Side& side : sides) turn(side);
    else
      for (size_t n = sides.size(); n-- > 0;) turn(sides[n]);
  }
  show_progress("");
}

std::string controls_failure(const std::string& row, const Side& ours, const Side& again,
                             const Side& handicapped, double tolerance) {
  Ratio same = ratio_of_medians(again.of(row), ours.of(row));
  if (same.low > 1 + tolerance || same.high < 1 - tolerance)
    return fmt::format(
        "{}: the same against itself gave {}, an interval without 1: the host is too noisy just "
        "now; leave it alone, or take more pairs with --count",
        row, show(same));
  Ratio slower = ratio_of_medians(handicapped.of(row), ours.of(row));
  if (slower.low <= 1 + tolerance)
    return fmt::format(
        "{}: the handicap does not show, {}: the host is too noisy just now; leave it alone, or "
        "take more pairs with --count",
        row, show(slower));
  return {};
}

std::string show_controls(const std::string& row, const Side& ours, const Side& again,
                          const Side& handicapped) {
  return fmt::format("controls of {}: against itself {}; with the handicap {}", row,
                     show(ratio_of_medians(again.of(row), ours.of(row))),
                     show(ratio_of_medians(handicapped.of(row), ours.of(row))));
}

bool print_gates(const std::vector<Gate>& gates, const nlohmann::json& list) {
  bool all = true;
  for (const Gate& gate : gates) {
    const nlohmann::json* found = nullptr;
    for (const nlohmann::json& entry : list)
      if (entry.at("name") == gate.row) found = &entry;
    double end = 0;
    if (found != nullptr)
      end = gate.is_value ? found->at("p99").get<double>()
                          : found->at("ratio").at("high").get<double>();
    bool met = found != nullptr && end <= gate.at_most;
    all = all && met;
    if (found == nullptr)
      fmt::print("gate not met: {}: not measured\n", gate.row);
    else
      fmt::print("gate {}: {}: {} {:.3f}, at most {:.3f} is wanted\n", met ? "met" : "not met",
                 gate.row, gate.is_value ? "p99 is" : "the interval ends at", end, gate.at_most);
  }
  return all;
}

}  // namespace hutch::bench
