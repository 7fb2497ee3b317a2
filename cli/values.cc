#include "cli/values.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <cstdlib>
#include <stdexcept>
#include <utility>

namespace hutch::cli {
namespace {

[[noreturn]] void refuse(std::string message) {
  throw std::invalid_argument(std::move(message));
}

// Takes a decimal number, with at most one point, off the front of `text`.
double take_number(std::string_view& text, std::string_view whole, std::string_view example) {
  size_t size = text.find_first_not_of("0123456789.");
  if (size == std::string_view::npos) size = text.size();
  double value = 0;
  auto [end, error] =
      std::from_chars(text.data(), text.data() + size, value, std::chars_format::fixed);
  if (error != std::errc() || end != text.data() + size)
    refuse(fmt::format("\"{}\" is not a number with a unit, such as {}", whole, example));
  text.remove_prefix(size);
  return value;
}

std::string_view take_unit(std::string_view& text) {
  size_t size = text.find_first_of("0123456789.");
  std::string_view unit = text.substr(0, size);
  text.remove_prefix(unit.size());
  return unit;
}

}  // namespace

uint64_t parse_size(std::string_view text) {
  std::string_view rest = text;
  double number = take_number(rest, text, "768MiB");
  std::string unit(rest);
  for (char& c : unit) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  int shift = -1;
  if (unit.empty() || unit == "b") shift = 0;
  for (auto [letter, bits] : {std::pair("k", 10), {"m", 20}, {"g", 30}, {"t", 40}}) {
    std::string name = letter;
    if (unit == name || unit == name + "b" || unit == name + "ib") shift = bits;
  }
  if (shift < 0)
    refuse(fmt::format("\"{}\" has an unknown unit; KiB, MiB, GiB and TiB are known", text));
  double bytes = std::ldexp(number, shift);
  // Above 2^53 a double has gaps, and no machine has such memory.
  if (bytes > std::ldexp(1.0, 53) || bytes != std::floor(bytes))
    refuse(fmt::format("\"{}\" is too large or not a whole number of bytes", text));
  return static_cast<uint64_t>(bytes);
}

std::chrono::nanoseconds parse_duration(std::string_view text) {
  constexpr const char* kExample = "30s, 5m or 1h30m";
  double seconds = 0;
  std::string_view rest = text;
  if (rest.empty()) refuse(fmt::format("a duration is missing, such as {}", kExample));
  while (!rest.empty()) {
    double number = take_number(rest, text, kExample);
    std::string_view unit = take_unit(rest);
    if (unit == "ms") {
      seconds += number / 1000;
    } else if (unit == "s" || (unit.empty() && rest.empty())) {
      seconds += number;
    } else if (unit == "m") {
      seconds += number * 60;
    } else if (unit == "h") {
      seconds += number * 3600;
    } else {
      refuse(fmt::format("\"{}\" has an unknown unit; ms, s, m and h are known", text));
    }
  }
  // A century; nanoseconds in 64 bits end at three.
  if (seconds <= 0 || seconds > 100.0 * 366 * 86400)
    refuse(fmt::format("\"{}\" is not a duration above zero", text));
  return std::chrono::nanoseconds(static_cast<int64_t>(seconds * 1e9));
}

std::vector<std::string> parse_environment(std::string_view text) {
  size_t equals = text.find('=');
  std::string name(text.substr(0, equals));
  if (name.empty()) refuse(fmt::format("\"{}\" does not name a variable; write NAME=value", text));
  if (equals != std::string_view::npos) return {std::string(text)};
  const char* value = std::getenv(name.c_str());
  if (value == nullptr) return {};
  return {name + "=" + value};
}

std::vector<std::string> parse_environment_file(std::string_view content) {
  std::vector<std::string> result;
  for (size_t number = 1; !content.empty(); number++) {
    size_t end = content.find('\n');
    std::string_view line = content.substr(0, end);
    content.remove_prefix(end == std::string_view::npos ? content.size() : end + 1);
    if (line.ends_with('\r')) line.remove_suffix(1);
    size_t start = line.find_first_not_of(" \t");
    if (start == std::string_view::npos || line[start] == '#') continue;
    line.remove_prefix(start);
    std::string_view name = line.substr(0, line.find('='));
    if (name.empty() || name.find_first_of(" \t") != std::string_view::npos)
      refuse(fmt::format("line {} does not name a variable; write NAME=value", number));
    for (std::string& variable : parse_environment(line)) result.push_back(std::move(variable));
  }
  return result;
}

DiskArgument parse_disk(std::string_view text) {
  DiskArgument disk;
  if (text.ends_with(":ro")) {
    disk.read_only = true;
    text.remove_suffix(3);
  } else if (text.ends_with(":rw")) {
    text.remove_suffix(3);
  }
  if (text.empty()) refuse("a disk needs a file, as in --disk data.img or --disk data.img:ro");
  disk.path = text;
  return disk;
}

}  // namespace hutch::cli
