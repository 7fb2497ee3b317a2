#include "guest-agent/rpc/codecs.h"

#include <algorithm>
#include <array>
#include <cstdio>

namespace hutch::agent::rpc {
namespace {

constexpr std::string_view kAlphabet =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

constexpr int8_t kInvalid = -1, kSpace = -2, kPadding = -3;

constexpr std::array<int8_t, 256> make_values() {
  std::array<int8_t, 256> values{};
  for (int8_t& value : values) value = kInvalid;
  for (size_t i = 0; i < kAlphabet.size(); i++)
    values[static_cast<unsigned char>(kAlphabet[i])] = static_cast<int8_t>(i);
  values['-'] = 62;
  values['_'] = 63;
  values[' '] = values['\n'] = values['\r'] = values['\t'] = kSpace;
  values['='] = kPadding;
  return values;
}
constexpr std::array<int8_t, 256> kValues = make_values();

// Years outside this cannot be written with four digits.
constexpr time_t kFirstSecond = -62167219200, kLastSecond = 253402300799;

bool take_digits(std::string_view& text, size_t count, int& value) {
  if (text.size() < count) return false;
  value = 0;
  for (size_t i = 0; i < count; i++) {
    if (text[i] < '0' || text[i] > '9') return false;
    value = value * 10 + (text[i] - '0');
  }
  text.remove_prefix(count);
  return true;
}

bool take(std::string_view& text, char wanted) {
  if (text.empty() || text.front() != wanted) return false;
  text.remove_prefix(1);
  return true;
}

// The length of the UTF-8 sequence at `at`, 0 when there is none.
size_t sequence_length(std::string_view text, size_t at) {
  auto byte = [&](size_t i) -> unsigned {
    return at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : 0;
  };
  auto follows = [&](size_t i, unsigned low = 0x80, unsigned high = 0xbf) {
    return byte(i) >= low && byte(i) <= high;
  };
  unsigned first = byte(0);
  if (first < 0x80) return 1;
  if (first >= 0xc2 && first <= 0xdf) return follows(1) ? 2 : 0;
  if (first >= 0xe0 && first <= 0xef) {
    unsigned low = first == 0xe0 ? 0xa0 : 0x80, high = first == 0xed ? 0x9f : 0xbf;
    return follows(1, low, high) && follows(2) ? 3 : 0;
  }
  if (first >= 0xf0 && first <= 0xf4) {
    unsigned low = first == 0xf0 ? 0x90 : 0x80, high = first == 0xf4 ? 0x8f : 0xbf;
    return follows(1, low, high) && follows(2) && follows(3) ? 4 : 0;
  }
  return 0;
}

}  // namespace

void append_base64(std::string& to, std::string_view bytes) {
  size_t at = to.size();
  to.resize(at + (bytes.size() + 2) / 3 * 4);
  auto byte = [&](size_t i) -> uint32_t {
    return i < bytes.size() ? static_cast<unsigned char>(bytes[i]) : 0;
  };
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t three = byte(i) << 16 | byte(i + 1) << 8 | byte(i + 2);
    to[at++] = kAlphabet[three >> 18];
    to[at++] = kAlphabet[three >> 12 & 63];
    to[at++] = i + 1 < bytes.size() ? kAlphabet[three >> 6 & 63] : '=';
    to[at++] = i + 2 < bytes.size() ? kAlphabet[three & 63] : '=';
  }
}

std::string to_base64(std::string_view bytes) {
  std::string text;
  append_base64(text, bytes);
  return text;
}

bool decode_base64(std::string& text) {
  size_t out = 0;
  uint32_t bits = 0;
  int count = 0;
  bool padded = false;
  for (char character : text) {
    int8_t value = kValues[static_cast<unsigned char>(character)];
    if (value == kSpace) continue;
    if (value == kInvalid || (padded && value != kPadding)) return false;
    if (value == kPadding) {
      padded = true;
      continue;
    }
    bits = bits << 6 | static_cast<uint32_t>(value);
    count += 6;
    if (count >= 8) {
      count -= 8;
      text[out++] = static_cast<char>(bits >> count);
    }
  }
  if (count == 6) return false;
  text.resize(out);
  return true;
}

std::string to_iso_date(const timespec& time) {
  time_t seconds = std::clamp<time_t>(time.tv_sec, kFirstSecond, kLastSecond);
  tm parts{};
  ::gmtime_r(&seconds, &parts);
  std::array<char, 64> text;
  int size = std::snprintf(text.data(), text.size(), "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ",
                           parts.tm_year + 1900, parts.tm_mon + 1, parts.tm_mday, parts.tm_hour,
                           parts.tm_min, parts.tm_sec, static_cast<int>(time.tv_nsec / 1'000'000));
  return std::string(text.data(), static_cast<size_t>(size));
}

std::optional<timespec> parse_iso_date(std::string_view text) {
  tm parts{};
  int year = 0, month = 0;
  if (!take_digits(text, 4, year) || !take(text, '-') || !take_digits(text, 2, month) ||
      !take(text, '-') || !take_digits(text, 2, parts.tm_mday) || !take(text, 'T') ||
      !take_digits(text, 2, parts.tm_hour) || !take(text, ':') ||
      !take_digits(text, 2, parts.tm_min) || !take(text, ':') ||
      !take_digits(text, 2, parts.tm_sec))
    return std::nullopt;
  if (month < 1 || month > 12 || parts.tm_mday < 1 || parts.tm_mday > 31 || parts.tm_hour > 24 ||
      parts.tm_min > 59 || parts.tm_sec > 60)
    return std::nullopt;
  parts.tm_year = year - 1900;
  parts.tm_mon = month - 1;
  timespec time{.tv_sec = ::timegm(&parts), .tv_nsec = 0};
  if (take(text, '.')) {
    long unit = 100'000'000;
    if (text.empty() || text.front() < '0' || text.front() > '9') return std::nullopt;
    while (!text.empty() && text.front() >= '0' && text.front() <= '9') {
      time.tv_nsec += unit * (text.front() - '0');
      unit /= 10;
      text.remove_prefix(1);
    }
  }
  if (take(text, 'Z')) return text.empty() ? std::optional(time) : std::nullopt;
  bool east = take(text, '+');
  int hours = 0, minutes = 0;
  if ((!east && !take(text, '-')) || !take_digits(text, 2, hours) || !take(text, ':') ||
      !take_digits(text, 2, minutes) || !text.empty())
    return std::nullopt;
  time.tv_sec -= (east ? 1 : -1) * (hours * 3600 + minutes * 60);
  return time;
}

bool nests_deeper(std::string_view text, size_t limit) {
  size_t depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); i++) {
    char character = text[i];
    if (in_string) {
      if (character == '\\') {
        i++;
      } else if (character == '"') {
        in_string = false;
      }
    } else if (character == '"') {
      in_string = true;
    } else if (character == '[' || character == '{') {
      if (++depth > limit) return true;
    } else if ((character == ']' || character == '}') && depth > 0) {
      depth--;
    }
  }
  return false;
}

std::string valid_utf8(std::string_view text) {
  std::string valid;
  valid.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    size_t length = sequence_length(text, at);
    if (length == 0) {
      valid += "\xef\xbf\xbd";
      at++;
    } else {
      valid.append(text, at, length);
      at += length;
    }
  }
  return valid;
}

size_t json_size(std::string_view text) {
  size_t size = 2;
  for (char character : text) {
    bool is_short = std::string_view("\b\f\n\r\t\"\\").find(character) != std::string_view::npos;
    bool is_control = static_cast<unsigned char>(character) < 0x20;
    size += is_short ? 2 : is_control ? 6 : 1;
  }
  return size;
}

std::string from_latin1(std::string_view bytes) {
  std::string text;
  for (char character : bytes) {
    auto byte = static_cast<unsigned char>(character);
    if (byte < 0x80) {
      text += character;
    } else {
      text += static_cast<char>(0xc0 | byte >> 6);
      text += static_cast<char>(0x80 | (byte & 0x3f));
    }
  }
  return text;
}

std::optional<std::string> to_latin1(std::string_view text) {
  std::string bytes;
  for (size_t at = 0; at < text.size();) {
    size_t length = sequence_length(text, at);
    auto first = static_cast<unsigned char>(text[at]);
    if (length == 1) {
      bytes += text[at];
    } else if (length == 2 && first <= 0xc3) {
      bytes +=
          static_cast<char>((first & 3) << 6 | (static_cast<unsigned char>(text[at + 1]) & 0x3f));
    } else {
      return std::nullopt;
    }
    at += length;
  }
  return bytes;
}

}  // namespace hutch::agent::rpc
