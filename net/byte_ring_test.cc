#include "net/byte_ring.h"

#include <doctest/doctest.h>

#include <cstring>
#include <random>
#include <string>

namespace hutch::net {
namespace {

std::string text(const Pieces& pieces) {
  std::string joined;
  for (auto piece : pieces)
    joined.append(reinterpret_cast<const char*>(piece.data()), piece.size());
  return joined;
}

std::span<const std::byte> bytes(const std::string& text) {
  return std::as_bytes(std::span(text));
}

TEST_CASE("a ring gives back what was put in, around its end and through growth") {
  BufferBudget budget(1 << 20);
  ByteRing ring(budget);
  std::mt19937 random(1);
  std::string expected;
  size_t next = 0;
  for (int step = 0; step < 4000; step++) {
    std::string added(random() % 3000, '\0');
    for (char& letter : added) letter = static_cast<char>(next++ % 251);
    const size_t taken = ring.append(bytes(added));
    next -= added.size() - taken;
    expected += added.substr(0, taken);
    REQUIRE(ring.size() == expected.size());
    REQUIRE(ring.size() <= ByteRing::kMost);
    const size_t gone = random() % (step % 500 < 250 ? 2500 : 3500);
    ring.consume(std::min(gone, ring.size()));
    expected.erase(0, gone);
    const size_t offset = expected.empty() ? 0 : random() % expected.size();
    REQUIRE(text(ring.bytes(offset, expected.size() - offset)) == expected.substr(offset));
  }
}

TEST_CASE("bytes lie in one piece until some are taken out") {
  BufferBudget budget(1 << 20);
  ByteRing ring(budget);
  for (int i = 0; i < 70; i++) CHECK(ring.append(bytes(std::string(1000, 'x'))) == 1000);
  CHECK(ring.bytes()[0].size() == 70'000);
}

TEST_CASE("B29: a ring has a bound of its own") {
  BufferBudget budget(16 << 20);
  ByteRing ring(budget);
  CHECK(ring.append(bytes(std::string(1 << 20, 'x'))) == ByteRing::kMost);
  CHECK(ring.append(bytes("x")) == 0);
  CHECK(ring.potential() == ByteRing::kMost);
  CHECK(budget.used() == ByteRing::kMost - ByteRing::kLeast);
  ring.clear();
  CHECK(budget.used() == 0);
}

TEST_CASE("B29: all rings have a bound together, beyond which each has its least") {
  BufferBudget budget(90'000);
  ByteRing first(budget), second(budget), third(budget);
  CHECK(first.append(bytes(std::string(60'000, 'x'))) == 60'000);
  CHECK(second.potential() == 16 * 1024);
  CHECK(second.append(bytes(std::string(60'000, 'x'))) == 16 * 1024);
  CHECK(third.append(bytes(std::string(60'000, 'x'))) == 16 * 1024);
  CHECK(budget.used() <= 90'000);
  ByteRing fourth(budget);
  CHECK(fourth.append(bytes(std::string(60'000, 'x'))) == ByteRing::kLeast);
  CHECK(fourth.potential() == ByteRing::kLeast);
  first.clear();
  CHECK(fourth.append(bytes(std::string(60'000, 'x'))) == 60'000);
}

}  // namespace
}  // namespace hutch::net
