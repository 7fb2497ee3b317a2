#include "policy/host_name.h"

#include <algorithm>

namespace hutch::policy {
namespace {

constexpr size_t kMaxName = 253;
constexpr size_t kMaxLabel = 63;

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

bool is_good_label(std::string_view label) {
  if (label.empty() || label.size() > kMaxLabel || label.front() == '-' || label.back() == '-')
    return false;
  return std::all_of(label.begin(), label.end(), [](char c) {
    return is_digit(c) || (c >= 'a' && c <= 'z') || c == '-' || c == '_';
  });
}

// As resolvers do: also 0x7f.
bool looks_numeric(std::string_view label) {
  if (label.starts_with("0x"))
    return std::all_of(label.begin() + 2, label.end(),
                       [](char c) { return is_digit(c) || (c >= 'a' && c <= 'f'); });
  return std::all_of(label.begin(), label.end(), is_digit);
}

}  // namespace

std::optional<std::string> canonical_host_name(std::string_view text) {
  if (text.ends_with('.')) text.remove_suffix(1);
  if (text.empty() || text.size() > kMaxName) return std::nullopt;
  std::string name(text);
  for (char& c : name)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  for (size_t start = 0;;) {
    size_t end = name.find('.', start);
    std::string_view label = std::string_view(name).substr(start, end - start);
    if (!is_good_label(label)) return std::nullopt;
    if (end == std::string::npos) {
      if (looks_numeric(label)) return std::nullopt;
      return name;
    }
    start = end + 1;
  }
}

}  // namespace hutch::policy
