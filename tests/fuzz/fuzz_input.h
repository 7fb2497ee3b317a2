// FuzzInput: reads a fuzzer's bytes as choices.
//
// Beyond the end every choice is zero, and zero is always the ordinary choice: an input is valid by
// default and wrong only where its bytes say so.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>
#include <type_traits>

namespace hutch::fuzz {

// Ends the run with a report when a promise is broken; unlike assert(), in every build.
#define FUZZ_CHECK(condition)                                                      \
  do {                                                                             \
    if (!(condition)) {                                                            \
      std::fprintf(stderr, "%s:%d: broken: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                \
    }                                                                              \
  } while (false)

class FuzzInput {
 public:
  FuzzInput(const uint8_t* data, size_t size) : left_(data, size) {}

  bool is_empty() const { return left_.empty(); }

  template <typename T>
  T take() requires std::is_unsigned_v<T> {
    T value = 0;
    size_t size = std::min(sizeof value, left_.size());
    if (size == 0) return value;
    std::memcpy(&value, left_.data(), size);
    left_ = left_.subspan(size);
    return value;
  }
  uint8_t byte() { return take<uint8_t>(); }
  // A number below `limit` (at most 2^32).
  uint32_t below(uint32_t limit) {
    return limit <= 256     ? byte() % limit
           : limit <= 65536 ? take<uint16_t>() % limit
                            : take<uint32_t>() % limit;
  }
  bool flip() { return (byte() & 1) != 0; }
  // One time in 16 or so: for what is wrong.
  bool rarely() { return byte() >= 240; }
  template <typename T, size_t N>
  T pick(const T (&choices)[N]) {
    return choices[below(N)];
  }

 private:
  std::span<const uint8_t> left_;
};

}  // namespace hutch::fuzz
