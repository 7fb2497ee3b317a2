#include "policy/ip_address.h"

#include <arpa/inet.h>

#include <algorithm>
#include <cstring>

namespace hutch::policy {
namespace {

struct Block {
  const char* prefix;
  unsigned bits;
  const char* reason;
};

// IANA's registries of special-purpose addresses (RFC 6890 and updates), as of 2025; what is
// globally reachable in them is left out. The first that matches gives the reason.
constexpr Block kBlocks4[] = {
    {"0.0.0.0", 8, "this network"},
    {"10.0.0.0", 8, "private"},
    {"100.64.0.0", 10, "shared address space"},
    {"127.0.0.0", 8, "loopback"},
    {"169.254.0.0", 16, "link-local"},  // and the metadata services of clouds
    {"172.16.0.0", 12, "private"},
    {"192.0.0.0", 24, "protocol assignments"},
    {"192.0.2.0", 24, "documentation"},
    {"192.88.99.0", 24, "6to4 relay"},
    {"192.168.0.0", 16, "private"},
    {"198.18.0.0", 15, "names of this network"},  // benchmarks; what the DNS here answers with
    {"198.51.100.0", 24, "documentation"},
    {"203.0.113.0", 24, "documentation"},
    {"224.0.0.0", 4, "multicast"},
    {"240.0.0.0", 4, "reserved"},
};
// The open Internet is 2000::/3 alone; of it, these are not.
constexpr Block kBlocks6[] = {
    {"::", 128, "unspecified"},
    {"::1", 128, "loopback"},
    {"fe80::", 10, "link-local"},
    {"fec0::", 10, "site-local"},
    {"fc00::", 7, "private"},
    {"ff00::", 8, "multicast"},
    {"2001::", 23, "protocol assignments"},  // Teredo, ORCHID, benchmarks
    {"2001:db8::", 32, "documentation"},
    {"3fff::", 20, "documentation"},
};

bool is_in(std::span<const uint8_t> address, std::span<const uint8_t> prefix, unsigned bits) {
  unsigned whole = bits / 8, rest = bits % 8;
  if (std::memcmp(address.data(), prefix.data(), whole) != 0) return false;
  return rest == 0 || ((address[whole] ^ prefix[whole]) >> (8 - rest)) == 0;
}

template <size_t Count>
const char* find_block(const IpAddress& address, const Block (&blocks)[Count]) {
  for (const Block& block : blocks)
    if (is_in(address.bytes(), IpAddress::parse(block.prefix)->bytes(), block.bits))
      return block.reason;
  return nullptr;
}

// The IPv4 address inside an IPv6 one: where it lies, and whether its bits are turned round.
struct Carrier {
  const char* prefix;
  unsigned bits;
  size_t offset;
  uint8_t flip;
};
constexpr Carrier kCarriers[] = {
    {"::ffff:0:0", 96, 12, 0},    // mapped, RFC 4291 section 2.5.5.2
    {"::", 96, 12, 0},            // compatible, section 2.5.5.1
    {"64:ff9b::", 96, 12, 0},     // NAT64, RFC 6052
    {"64:ff9b:1::", 48, 12, 0},   // NAT64 of a site, RFC 8215
    {"2002::", 16, 2, 0},         // 6to4, RFC 3056
    {"2001::", 32, 12, 0xff},     // Teredo, RFC 4380
    {"::ffff:0:0:0", 96, 12, 0},  // translated, RFC 2765
};

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
  return IpAddress::v4(bytes);
}

}  // namespace

IpAddress IpAddress::v4(std::array<uint8_t, 4> bytes) {
  IpAddress address;
  std::copy(bytes.begin(), bytes.end(), address.bytes_.begin());
  return address;
}

IpAddress IpAddress::v4(uint32_t value) {
  return v4({static_cast<uint8_t>(value >> 24), static_cast<uint8_t>(value >> 16),
             static_cast<uint8_t>(value >> 8), static_cast<uint8_t>(value)});
}

IpAddress IpAddress::v6(std::array<uint8_t, 16> bytes) {
  IpAddress address;
  address.bytes_ = bytes;
  address.size_ = 16;
  return address;
}

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
  char text[INET6_ADDRSTRLEN];
  ::inet_ntop(is_v4() ? AF_INET : AF_INET6, bytes_.data(), text, sizeof text);
  return text;
}

uint32_t IpAddress::v4_value() const {
  return static_cast<uint32_t>(bytes_[0]) << 24 | static_cast<uint32_t>(bytes_[1]) << 16 |
         static_cast<uint32_t>(bytes_[2]) << 8 | bytes_[3];
}

const char* floor_reason(const IpAddress& address) {
  if (address.is_v4()) return find_block(address, kBlocks4);
  if (const char* reason = find_block(address, kBlocks6)) return reason;
  for (const Carrier& carrier : kCarriers) {
    if (!is_in(address.bytes(), IpAddress::parse(carrier.prefix)->bytes(), carrier.bits)) continue;
    std::array<uint8_t, 4> inside;
    for (size_t i = 0; i < 4; i++)
      inside[i] = static_cast<uint8_t>(address.bytes()[carrier.offset + i] ^ carrier.flip);
    if (const char* reason = floor_reason(IpAddress::v4(inside))) return reason;
  }
  return (address.bytes()[0] & 0xe0) == 0x20 ? nullptr : "not of the open Internet";
}

}  // namespace hutch::policy
