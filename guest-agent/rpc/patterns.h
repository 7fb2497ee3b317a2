// Patterns of walk and expandGlob: JavaScript's regular expressions as far as std::regex has them,
// and globs.
#pragma once

#include <regex>
#include <string>
#include <string_view>
#include <vector>

#include "guest-agent/rpc/failure.h"

namespace hutch::agent::rpc {

// {source, flags} of a JavaScript regular expression. Throws a SyntaxError for what is none, and
// says so for what this service cannot match: the flags s, u and v, named groups, looking behind.
std::regex read_regex(const Json& value);
std::vector<std::regex> read_regexes(const Json& params, const char* key);
bool matches_any(const std::vector<std::regex>& patterns, const std::string& text);

struct GlobOptions {
  bool extended = true, globstar = true, ignore_case = false;
};
// Matches a whole path. Throws a SyntaxError.
std::regex glob_regex(std::string_view glob, const GlobOptions& options);
// Whether a text has any character that makes it more than a plain name.
bool is_glob(std::string_view text);

}  // namespace hutch::agent::rpc
