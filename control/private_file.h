// Files that only their user may read: keys, tokens.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

#include "base/result.h"

namespace hutch::control {

// What a Result holds; its error as a std::runtime_error.
template <typename T>
T value_or_throw(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().text());
  return hutch::detail::take(std::move(result));
}

// Replaces `path` at once, with mode 0600; a crash leaves the old file or the new one. Throws
// std::runtime_error with the cause.
void write_private_file(const std::string& path, std::string_view text);

}  // namespace hutch::control
