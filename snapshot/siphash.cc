#include "snapshot/siphash.h"

#include <bit>
#include <cstring>

#include "base/wire.h"

namespace hutch::snapshot {
namespace {

uint64_t load(std::span<const std::byte> bytes) {
  le64 value;
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

struct State {
  uint64_t v0, v1, v2, v3;

  void round() {
    v0 += v1;
    v1 = std::rotl(v1, 13) ^ v0;
    v0 = std::rotl(v0, 32);
    v2 += v3;
    v3 = std::rotl(v3, 16) ^ v2;
    v0 += v3;
    v3 = std::rotl(v3, 21) ^ v0;
    v2 += v1;
    v1 = std::rotl(v1, 17) ^ v2;
    v2 = std::rotl(v2, 32);
  }
  void compress(uint64_t word) {
    v3 ^= word;
    round();
    round();
    v0 ^= word;
  }
};

}  // namespace

uint64_t siphash(const Key& key, std::span<const std::byte> bytes) {
  const uint64_t k0 = load(std::span(key).first(8));
  const uint64_t k1 = load(std::span(key).last(8));
  State state{k0 ^ 0x736f6d6570736575, k1 ^ 0x646f72616e646f6d, k0 ^ 0x6c7967656e657261,
              k1 ^ 0x7465646279746573};
  const uint64_t size = bytes.size();
  for (; bytes.size() >= 8; bytes = bytes.subspan(8)) state.compress(load(bytes));
  uint64_t last = size << 56;
  for (size_t i = 0; i < bytes.size(); i++) last |= std::to_integer<uint64_t>(bytes[i]) << (8 * i);
  state.compress(last);
  state.v2 ^= 0xff;
  for (int i = 0; i < 4; i++) state.round();
  return state.v0 ^ state.v1 ^ state.v2 ^ state.v3;
}

}  // namespace hutch::snapshot
