// What is said of many measurements.
#pragma once

#include <cstdint>
#include <vector>

namespace hutch::bench {

// The value below which `fraction` (0 to 1) of the values lie, one of them. `values` is not empty.
double percentile(std::vector<double> values, double fraction);
double median(std::vector<double> values);

struct Ratio {
  double median = 0;
  double low = 0;  // the ends of the 95 % interval
  double high = 0;
};

// The ratio of the medians of `ours` and `peer`, with a percentile bootstrap of both (Efron and
// Tibshirani, An Introduction to the Bootstrap, chapter 13). Neither is empty. The same values give
// the same result.
Ratio ratio_of_medians(const std::vector<double>& ours, const std::vector<double>& peer);

}  // namespace hutch::bench
