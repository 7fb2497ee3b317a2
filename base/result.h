// Errors as values: Result<T>, Error and TRY.
//
// Floors 0 to 4 are built without exceptions. A function that can fail returns Result<T>; the
// caller either passes the failure on with TRY or decides. An Error says what failed, why, and,
// where the reader can do something about it, what mends it.
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <utility>

namespace hutch {

// What went wrong. Made by fail() and fail_errno(); grows a prefix with context().
struct Error {
  std::string message;    // one sentence without a final full stop, the outermost cause first
  std::string remedy;     // one sentence or command that mends it; empty when there is none
  int number = 0;         // the errno value behind it, 0 when there is none
  const char* file = "";  // where it was made
  int line = 0;

  // Puts `prefix: ` before the message, for the caller that knows more of the purpose.
  Error&& context(std::string_view prefix) &&;
  Error&& with_remedy(std::string_view text) &&;
  // `message (remedy)` for a person.
  std::string text() const;
};

template <typename T>
using Result = tl::expected<T, Error>;

// A failure whose cause is not a system call.
[[nodiscard]] tl::unexpected<Error> fail(std::string message, std::string remedy = {},
                                         const char* file = __builtin_FILE(),
                                         int line = __builtin_LINE());

// A failure of a system call: appends the text of `number` (an errno value) to `message`.
[[nodiscard]] tl::unexpected<Error> fail_errno(int number, std::string message,
                                               std::string remedy = {},
                                               const char* file = __builtin_FILE(),
                                               int line = __builtin_LINE());

namespace detail {
template <typename T>
T take(tl::expected<T, Error>&& result) {
  return *std::move(result);
}
inline void take(tl::expected<void, Error>&&) {}
}  // namespace detail

}  // namespace hutch

// Evaluates to the value of a Result, or returns its Error from the enclosing function.
#define TRY(...) HUTCH_TRY(HUTCH_UNIQUE(__COUNTER__), __VA_ARGS__)

// The same with a prefix for the message: TRY_CONTEXT("loading the kernel", load(fd)).
#define TRY_CONTEXT(prefix, ...) \
  TRY((__VA_ARGS__).map_error([&](auto&& error) { return std::move(error).context(prefix); }))

// A TRY inside a TRY needs a variable of its own.
#define HUTCH_UNIQUE(number) HUTCH_JOIN(hutch_try_result_, number)
#define HUTCH_JOIN(left, right) left##right
#define HUTCH_TRY(variable, ...)                          \
  ({                                                      \
    auto variable = (__VA_ARGS__);                        \
    if (!variable) [[unlikely]]                           \
      return tl::unexpected(std::move(variable).error()); \
    ::hutch::detail::take(std::move(variable));           \
  })
