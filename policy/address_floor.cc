#include "policy/address_floor.h"

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

}  // namespace

const char* floor_reason(const IpAddress& address) {
  if (address.is_v4()) return find_block(address, kBlocks4);
  if (const char* reason = find_block(address, kBlocks6)) return reason;
  for (const Carrier& carrier : kCarriers) {
    if (!is_in(address.bytes(), IpAddress::parse(carrier.prefix)->bytes(), carrier.bits)) continue;
    auto byte = [&](size_t i) {
      return static_cast<uint8_t>(address.bytes()[carrier.offset + i] ^ carrier.flip);
    };
    if (const char* reason = floor_reason(IpAddress::v4(byte(0), byte(1), byte(2), byte(3))))
      return reason;
  }
  return (address.bytes()[0] & 0xe0) == 0x20 ? nullptr : "not of the open Internet";
}

}  // namespace hutch::policy
