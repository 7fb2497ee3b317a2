#include "serve-options/values.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>

namespace hutch::serve_options {

int64_t parse_time(const std::string& option, const std::string& text) {
  int64_t number = 0;
  const char* end = text.data() + text.size();
  std::from_chars_result read = std::from_chars(text.data(), end, number);
  int64_t unit = read.ptr + 1 != end ? 0
                 : *read.ptr == 's'  ? 1000
                 : *read.ptr == 'm'  ? 60'000
                 : *read.ptr == 'h'  ? 3'600'000
                 : *read.ptr == 'd'  ? 86'400'000
                                     : 0;
  constexpr int64_t kMost = int64_t{100} * 366 * 86'400'000;
  if (read.ec != std::errc() || unit == 0 || number <= 0 || number > kMost / unit)
    throw CLI::ValidationError(option, fmt::format("\"{}\" is no time; write 12h or 30d", text));
  return number * unit;
}

}  // namespace hutch::serve_options
