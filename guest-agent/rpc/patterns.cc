#include "guest-agent/rpc/patterns.h"

#include <algorithm>

#include "guest-agent/rpc/parameters.h"

namespace hutch::agent::rpc {
namespace {

constexpr size_t kMaxGroups = 100, kMaxSource = 16 * 1024;
constexpr std::string_view kSpecial = "\\^$.|?*+()[]{}/-";

Failure syntax_error(const std::string& source, const std::string& why) {
  return {"SyntaxError", "Invalid regular expression: /" + source + "/: " + why};
}

std::regex compile(const std::string& source, std::regex::flag_type flags) {
  // std::regex calls itself for each group, and must not run out of stack.
  size_t depth = 0;
  for (size_t at = 0; at < source.size(); at++) {
    if (source[at] == '\\') {
      at++;
    } else if (source[at] == '(') {
      if (++depth > kMaxGroups) throw syntax_error("...", "too many groups in one another");
    } else if (source[at] == ')' && depth > 0) {
      depth--;
    }
  }
  if (source.size() > kMaxSource) throw syntax_error("...", "it is too long");
  try {
    return std::regex(source, flags);
  } catch (const std::regex_error& error) {
    throw syntax_error(source, error.what());
  }
}

void append_literal(std::string& to, char character) {
  if (kSpecial.find(character) != std::string_view::npos) to += '\\';
  to += character;
}

// A bracket expression from its '[' on; returns its length, 0 when it has no end.
size_t append_class(std::string& to, std::string_view glob) {
  size_t at = 1;
  bool negated = at < glob.size() && (glob[at] == '!' || glob[at] == '^');
  if (negated) at++;
  std::string set;
  for (size_t first = at; at < glob.size(); at++) {
    if (glob[at] == ']' && at > first) {
      // A slash is in no class.
      to += negated ? "[^/" + set + "]" : "[" + set + "]";
      return at + 1;
    }
    size_t name_end = glob.substr(at).starts_with("[:") ? glob.find(":]", at) : glob.npos;
    if (name_end != glob.npos) {
      set.append(glob, at, name_end + 2 - at);
      at = name_end + 1;
    } else if (glob[at] == '\\' && at + 1 < glob.size()) {
      append_literal(set, glob[++at]);
    } else if (glob[at] == '-') {
      set += '-';
    } else {
      append_literal(set, glob[at]);
    }
  }
  return 0;
}

// What closes a group, for an extended glob such as "@(a|b)".
struct Group {
  std::string end;
  bool is_brace;
};

}  // namespace

std::regex read_regex(const Json& value) {
  if (!value.is_object()) throw type_error("a pattern must be {source, flags}");
  std::string source = text_of(value, "source");
  auto flags = std::regex::ECMAScript;
  for (char flag : optional_text(value, "flags").value_or("")) {
    if (flag == 'i') {
      flags |= std::regex::icase;
    } else if (flag == 'm') {
      flags |= std::regex::multiline;
    } else if (flag != 'g' && flag != 'y' && flag != 'd') {
      throw syntax_error(source, std::string("the flag ") + flag + " is not supported here");
    }
  }
  if (source.find("(?<") != std::string::npos)
    throw syntax_error(source, "named groups and looking behind are not supported here");
  return compile(source, flags);
}

std::vector<std::regex> read_regexes(const Json& params, const char* key) {
  std::vector<std::regex> patterns;
  auto found = params.find(key);
  if (found == params.end() || found->is_null()) return patterns;
  if (!found->is_array())
    throw type_error(std::string("\"") + key + "\" must be a list of patterns");
  for (const Json& value : *found) patterns.push_back(read_regex(value));
  return patterns;
}

bool matches_any(const std::vector<std::regex>& patterns, const std::string& text) {
  return std::any_of(patterns.begin(), patterns.end(),
                     [&](const std::regex& pattern) { return std::regex_search(text, pattern); });
}

bool is_glob(std::string_view text) {
  return text.find_first_of("*?[{\\") != text.npos || text.find("+(") != text.npos ||
         text.find("@(") != text.npos || text.find("!(") != text.npos;
}

std::regex glob_regex(std::string_view glob, const GlobOptions& options) {
  std::string regex;
  std::vector<Group> groups;
  for (size_t at = 0; at < glob.size();) {
    std::string_view rest = glob.substr(at);
    char character = rest.front();
    bool in_brace = !groups.empty() && groups.back().is_brace;
    bool in_extended = !groups.empty() && !groups.back().is_brace;
    if (options.extended && rest.size() > 1 && rest[1] == '(' &&
        std::string_view("?*+@!").find(character) != std::string_view::npos) {
      regex += character == '!' ? "(?!(?:" : "(?:";
      // "Not this" looks at all that follows in the name.
      groups.push_back({character == '!'   ? ")/*$)[^/]*"
                        : character == '@' ? ")"
                                           : std::string(")") + character,
                        false});
      at += 2;
    } else if (in_extended && (character == ')' || character == '|')) {
      if (character == ')') {
        regex += groups.back().end;
        groups.pop_back();
      } else {
        regex += '|';
      }
      at++;
    } else if (character == '{') {
      regex += "(?:";
      groups.push_back({")", true});
      at++;
    } else if (in_brace && (character == '}' || character == ',')) {
      regex += character == ',' ? "|" : ")";
      if (character == '}') groups.pop_back();
      at++;
    } else if (options.globstar && rest.starts_with("**") && (at == 0 || glob[at - 1] == '/') &&
               (rest.size() == 2 || rest[2] == '/')) {
      regex += "(?:[^/]*(?:/|$)+)*";
      at += std::min<size_t>(rest.size(), 3);
    } else if (character == '*') {
      while (at < glob.size() && glob[at] == '*') at++;
      regex += "[^/]*";
    } else if (character == '?') {
      regex += "[^/]";
      at++;
    } else if (character == '[') {
      size_t length = append_class(regex, rest);
      if (length == 0) append_literal(regex, character);
      at += std::max<size_t>(length, 1);
    } else if (character == '/') {
      while (at < glob.size() && glob[at] == '/') at++;
      regex += "/+";
    } else {
      if (character == '\\' && rest.size() > 1) character = glob[++at];
      append_literal(regex, character);
      at++;
    }
  }
  // A group without an end is no group.
  if (!groups.empty()) {
    regex.clear();
    for (char character : glob) append_literal(regex, character);
  }
  auto flags = std::regex::ECMAScript;
  if (options.ignore_case) flags |= std::regex::icase;
  return compile("^" + regex + "/*$", flags);
}

}  // namespace hutch::agent::rpc
