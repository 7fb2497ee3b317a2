// Thousands of random lives of a flow against the model; the same model is a fuzz target.
#include "tests/net/tcp_model.h"

#include <doctest/doctest.h>

#include <random>

namespace hutch::net {
namespace {

std::string run(uint32_t seed, size_t size) {
  std::mt19937 random(seed);
  std::vector<uint8_t> bytes(size);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  fuzz::FuzzInput input(bytes.data(), bytes.size());
  return testing::TcpModel(input).run();
}

TEST_CASE("whatever the order of things, no byte is lost, changed or invented") {
  int broken = 0;
  for (uint32_t seed = 0; seed < 20'000 && broken < 5; seed++) {
    const std::string what = run(seed, 64 + seed % 1000);
    if (what.empty()) continue;
    broken++;
    CHECK_MESSAGE(what.empty(), "seed ", seed, ": ", what);
  }
  CHECK(broken == 0);
}

}  // namespace
}  // namespace hutch::net
