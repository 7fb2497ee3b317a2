#include "bench/statistics.h"

#include <doctest/doctest.h>

#include <numeric>

using namespace hutch::bench;

TEST_CASE("percentiles are values that were measured") {
  std::vector<double> values(100);
  std::iota(values.rbegin(), values.rend(), 1);
  CHECK(percentile(values, 0.5) == 50);
  CHECK(percentile(values, 0.99) == 99);
  CHECK(percentile(values, 0) == 1);
  CHECK(percentile(values, 1) == 100);
  CHECK(percentile({7}, 0.99) == 7);
}

TEST_CASE("the median lies in the middle, of an even count too") {
  CHECK(median({3, 1, 2}) == 2);
  CHECK(median({4, 1, 3, 2}) == 2.5);
  CHECK(median({5}) == 5);
}

TEST_CASE("a ratio of medians has an interval that holds it and that more values narrow") {
  std::vector<double> ours, peer;
  for (int i = 0; i < 20; i++) {
    ours.push_back(20 + i % 7);
    peer.push_back(10 + i % 5);
  }
  Ratio few = ratio_of_medians(ours, peer);
  CHECK(few.median == median(ours) / median(peer));
  CHECK(few.low <= few.median);
  CHECK(few.median <= few.high);
  CHECK(few.low < few.high);
  for (int i = 0; i < 5; i++) {
    ours.insert(ours.end(), ours.begin(), ours.begin() + 20);
    peer.insert(peer.end(), peer.begin(), peer.begin() + 20);
  }
  Ratio many = ratio_of_medians(ours, peer);
  CHECK(many.high - many.low <= few.high - few.low);
  Ratio same = ratio_of_medians({2, 2, 2}, {1, 1, 1});
  CHECK(same.low == 2);
  CHECK(same.high == 2);
}
