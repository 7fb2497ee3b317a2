#include "bench/turns.h"

#include <doctest/doctest.h>

using hutch::bench::controls_failure;
using hutch::bench::Gate;
using hutch::bench::print_gates;
using hutch::bench::Side;
using hutch::bench::take_turns;
using hutch::bench::Values;

namespace {

Side side(std::vector<double> values) {
  return {"", {}, {{"row", std::move(values)}}};
}

nlohmann::json entry(const char* name, double low, double high) {
  return {{"name", name}, {"ratio", {{"median", low}, {"low", low}, {"high", high}}}};
}

}  // namespace

TEST_CASE("sides take turns forwards and backwards, after one turn each that does not count") {
  std::string order;
  auto turn = [&order](const char* name) {
    return [&order, name] {
      order += name;
      return Values{{"row", static_cast<double>(order.size())}};
    };
  };
  std::vector<Side> sides{{"a", turn("a"), {}}, {"b", turn("b"), {}}, {"c", turn("c"), {}}};
  take_turns(sides, 3);
  CHECK(order == "abcabccbaabc");
  CHECK(sides[0].of("row") == std::vector<double>{4, 9, 10});
}

TEST_CASE("a comparison fails when the same differs from itself, or a handicap does not show") {
  Side ours = side({1.0, 1.1, 0.9, 1.0, 1.05}), again = side({1.02, 1.1, 0.93, 1.0, 0.9});
  Side slower = side({2.0, 2.1, 1.9, 2.0, 2.05});
  CHECK(controls_failure("row", ours, again, slower).empty());
  CHECK(controls_failure("row", ours, slower, slower).find("against itself") != std::string::npos);
  CHECK(controls_failure("row", ours, again, again).find("handicap") != std::string::npos);
}

TEST_CASE("a gate is met only if the unfavourable end of the interval clears it") {
  nlohmann::json list = nlohmann::json::array({entry("row", 0.1, 0.2)});
  CHECK(print_gates({{"row", 0.2}}, list));
  CHECK(!print_gates({{"row", 0.15}}, list));
  CHECK(!print_gates({{"row", 0.2}, {"other", 1}}, list));
}
