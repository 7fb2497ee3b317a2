#include "guest-agent/rpc/parameters.h"

#include <cmath>

namespace hutch::agent::rpc {
namespace {

[[noreturn]] void mismatch(const char* key, const char* wanted) {
  throw type_error(std::string("\"") + key + "\" must be " + wanted);
}

const Json* find(const Json& params, const char* key) {
  if (!params.is_object()) return nullptr;
  auto found = params.find(key);
  return found == params.end() || found->is_null() ? nullptr : &*found;
}

const std::string& checked_text(const Json& value, const char* key) {
  if (!value.is_string()) mismatch(key, "a string");
  const std::string& text = value.get_ref<const std::string&>();
  if (text.find('\0') != std::string::npos) mismatch(key, "a string without a zero byte");
  return text;
}

}  // namespace

std::string text_of(const Json& params, const char* key) {
  const Json* value = find(params, key);
  if (value == nullptr) mismatch(key, "a string");
  return checked_text(*value, key);
}

std::optional<std::string> optional_text(const Json& params, const char* key) {
  const Json* value = find(params, key);
  if (value == nullptr) return std::nullopt;
  return checked_text(*value, key);
}

std::optional<std::string> take_text(Json& params, const char* key) {
  if (find(params, key) == nullptr) return std::nullopt;
  Json& value = params[key];
  if (!value.is_string()) mismatch(key, "a string");
  return std::move(value.get_ref<std::string&>());
}

bool flag_of(const Json& params, const char* key, bool otherwise) {
  const Json* value = find(params, key);
  if (value == nullptr) return otherwise;
  if (!value->is_boolean()) mismatch(key, "a boolean");
  return value->get<bool>();
}

std::optional<double> optional_number(const Json& params, const char* key) {
  const Json* value = find(params, key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number()) mismatch(key, "a number");
  return value->get<double>();
}

double number_of(const Json& params, const char* key) {
  std::optional<double> number = optional_number(params, key);
  if (!number) mismatch(key, "a number");
  return *number;
}

std::optional<int64_t> optional_integer(const Json& params, const char* key, int64_t least,
                                        int64_t most) {
  std::optional<double> number = optional_number(params, key);
  if (!number) return std::nullopt;
  if (std::trunc(*number) != *number || *number < static_cast<double>(least) ||
      *number > static_cast<double>(most)) {
    std::string wanted =
        "a whole number from " + std::to_string(least) + " to " + std::to_string(most);
    mismatch(key, wanted.c_str());
  }
  return static_cast<int64_t>(*number);
}

int64_t integer_of(const Json& params, const char* key, int64_t least, int64_t most) {
  std::optional<int64_t> number = optional_integer(params, key, least, most);
  if (!number) mismatch(key, "a number");
  return *number;
}

std::vector<std::string> texts_of(const Json& params, const char* key) {
  std::vector<std::string> texts;
  const Json* value = find(params, key);
  if (value == nullptr) return texts;
  if (!value->is_array()) mismatch(key, "a list of strings");
  for (const Json& text : *value) texts.push_back(checked_text(text, key));
  return texts;
}

std::map<std::string, std::string> text_map_of(const Json& params, const char* key) {
  std::map<std::string, std::string> map;
  for (const auto& [name, value] : object_of(params, key).items())
    map[name] = checked_text(value, key);
  return map;
}

const Json& object_of(const Json& params, const char* key) {
  static const Json empty = Json::object();
  const Json* value = find(params, key);
  if (value == nullptr) return empty;
  if (!value->is_object()) mismatch(key, "an object");
  return *value;
}

}  // namespace hutch::agent::rpc
