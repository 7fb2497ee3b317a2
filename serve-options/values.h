// What people write for the server's verbs.
#pragma once

#include <cstdint>
#include <string>

namespace hutch::serve_options {

// "90s", "30m", "12h" or "30d" in milliseconds. Throws a CLI::ValidationError of `option`.
int64_t parse_time(const std::string& option, const std::string& text);

}  // namespace hutch::serve_options
