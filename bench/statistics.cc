#include "bench/statistics.h"

#include <algorithm>
#include <cmath>
#include <random>

namespace hutch::bench {
namespace {

constexpr int kResamples = 2000;
constexpr uint64_t kSeed = 1;

double resampled_median(const std::vector<double>& values, std::mt19937_64& random) {
  std::uniform_int_distribution<size_t> index(0, values.size() - 1);
  std::vector<double> sample(values.size());
  for (double& value : sample) value = values[index(random)];
  return median(std::move(sample));
}

}  // namespace

double percentile(std::vector<double> values, double fraction) {
  auto rank = static_cast<size_t>(std::ceil(fraction * static_cast<double>(values.size())));
  auto at =
      values.begin() + static_cast<std::ptrdiff_t>(std::clamp<size_t>(rank, 1, values.size()) - 1);
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

double median(std::vector<double> values) {
  auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

Ratio ratio_of_medians(const std::vector<double>& ours, const std::vector<double>& peer) {
  std::mt19937_64 random(kSeed);
  std::vector<double> ratios;
  for (int i = 0; i < kResamples; i++)
    ratios.push_back(resampled_median(ours, random) / resampled_median(peer, random));
  return {median(ours) / median(peer), percentile(ratios, 0.025), percentile(ratios, 0.975)};
}

}  // namespace hutch::bench
