// Reading the parameters of a call. A key that is missing and one that is null mean the same.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "guest-agent/rpc/failure.h"

namespace hutch::agent::rpc {

// All of them throw a TypeError that names the key when the value has another type. `text_of` and
// `path_of` take no zero byte.
std::string text_of(const Json& params, const char* key);
std::optional<std::string> optional_text(const Json& params, const char* key);
// Moves the text out of `params`; it may hold anything.
std::optional<std::string> take_text(Json& params, const char* key);
bool flag_of(const Json& params, const char* key, bool otherwise);
double number_of(const Json& params, const char* key);
std::optional<double> optional_number(const Json& params, const char* key);
// A whole number from `least` to `most`.
std::optional<int64_t> optional_integer(const Json& params, const char* key, int64_t least,
                                        int64_t most);
int64_t integer_of(const Json& params, const char* key, int64_t least, int64_t most);
std::vector<std::string> texts_of(const Json& params, const char* key);
std::map<std::string, std::string> text_map_of(const Json& params, const char* key);
// The object under `key`; an empty one when there is none.
const Json& object_of(const Json& params, const char* key);
constexpr int64_t kMaxInteger = int64_t{1} << 53;

}  // namespace hutch::agent::rpc
