#include "base/ip_address.h"

#include <arpa/inet.h>

#include <algorithm>

namespace hutch {
namespace {

std::optional<uint8_t> parse_byte(std::string_view text) {
  if (text.empty() || text.size() > 3 || (text.size() > 1 && text[0] == '0')) return std::nullopt;
  unsigned value = 0;
  for (char digit : text) {
    if (digit < '0' || digit > '9') return std::nullopt;
    value = value * 10 + static_cast<unsigned>(digit - '0');
  }
  if (value > 255) return std::nullopt;
  return static_cast<uint8_t>(value);
}

std::optional<IpAddress> parse_v4(std::string_view text) {
  std::array<uint8_t, 4> bytes;
  for (size_t i = 0; i < 4; i++) {
    size_t end = i < 3 ? text.find('.') : text.size();
    if (end == std::string_view::npos) return std::nullopt;
    std::optional<uint8_t> byte = parse_byte(text.substr(0, end));
    if (!byte) return std::nullopt;
    bytes[i] = *byte;
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return IpAddress::v4(bytes[0], bytes[1], bytes[2], bytes[3]);
}

}  // namespace

std::optional<IpAddress> IpAddress::parse(std::string_view text) {
  if (text.find(':') == std::string_view::npos) return parse_v4(text);
  // inet_pton is strict for IPv6; it wants a final zero byte.
  std::string terminated(text);
  if (terminated.size() >= INET6_ADDRSTRLEN || terminated.find('\0') != std::string::npos)
    return std::nullopt;
  std::array<uint8_t, 16> bytes;
  if (::inet_pton(AF_INET6, terminated.c_str(), bytes.data()) != 1) return std::nullopt;
  return v6(bytes);
}

std::string IpAddress::text() const {
  std::array<char, INET6_ADDRSTRLEN> text{};
  ::inet_ntop(is_v6_ ? AF_INET6 : AF_INET, bytes_.data(), text.data(), text.size());
  return text.data();
}

}  // namespace hutch
