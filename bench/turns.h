// Sides that take turns: A B C, then C B A, so that a drift of the host strikes all alike.
//
// A comparison brings its own doubts: beside ours and the peer, ours once more (A/A), whose ratio
// to ours must have 1 in its interval, and ours with a handicap, which must show. When they do not,
// the harness or the host is not fit for the claim, and the run fails.
#pragma once

#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace hutch::bench {

// What one turn has measured, by row.
using Values = std::map<std::string, double>;

struct Side {
  std::string name;
  std::function<Values()> turn;
  std::map<std::string, std::vector<double>> values;

  const std::vector<double>& of(const std::string& row) const { return values.at(row); }
};

// Lets each side have `count` turns after one that does not count. Progress on standard error.
void take_turns(std::vector<Side>& sides, uint32_t count);

// What the two controls of a row say; empty when all is well. The interval may miss 1 by
// `tolerance`, for a clock that repeats so well that the last digit is one.
std::string controls_failure(const std::string& row, const Side& ours, const Side& again,
                             const Side& handicapped, double tolerance = 0);
// One line about them.
std::string show_controls(const std::string& row, const Side& ours, const Side& again,
                          const Side& handicapped);

// A ratio that is wanted: met only if the unfavourable end of the interval clears it. Or, of rows
// that are small by themselves, a value that 99 of 100 have to clear.
struct Gate {
  std::string row;
  double at_most = 0;
  bool is_value = false;
};
// Whether they are met, each of them said. A row that was not measured is not met.
bool print_gates(const std::vector<Gate>& gates, const nlohmann::json& list);

}  // namespace hutch::bench
