#include "broker/floor.h"

#include <ifaddrs.h>
#include <netinet/in.h>

#include <charconv>
#include <cstring>
#include <memory>
#include <optional>

#include "policy/address_floor.h"

namespace hutch::broker {
namespace {

bool is_in(const IpAddress& address, const IpAddress& prefix, unsigned bits) {
  if (address.is_v4() != prefix.is_v4()) return false;
  for (unsigned i = 0; i < bits; i++) {
    auto bit = [&](const IpAddress& of) { return of.bytes()[i / 8] >> (7 - i % 8) & 1; };
    if (bit(address) != bit(prefix)) return false;
  }
  return true;
}

std::optional<IpAddress> address_of(const sockaddr* address) {
  if (address == nullptr) return std::nullopt;
  if (address->sa_family == AF_INET) {
    sockaddr_in v4;
    std::memcpy(&v4, address, sizeof v4);
    return IpAddress::v4(ntohl(v4.sin_addr.s_addr));
  }
  if (address->sa_family == AF_INET6) {
    sockaddr_in6 v6;
    std::memcpy(&v6, address, sizeof v6);
    std::array<uint8_t, 16> bytes;
    std::memcpy(bytes.data(), &v6.sin6_addr, bytes.size());
    return IpAddress::v6(bytes);
  }
  return std::nullopt;
}

}  // namespace

Result<Floor> Floor::create(const std::vector<std::string>& opened) {
  Floor floor;
  for (const std::string& text : opened) {
    size_t slash = text.find('/');
    std::optional<IpAddress> prefix = IpAddress::parse(std::string_view(text).substr(0, slash));
    Block block;
    bool good = prefix && slash != std::string::npos;
    if (good) {
      const char* end = text.data() + text.size();
      auto [read, error] = std::from_chars(text.data() + slash + 1, end, block.bits);
      good = error == std::errc() && read == end && block.bits <= prefix->bytes().size() * 8;
    }
    if (!good)
      return fail(fmt::format("\"{}\" is no block of addresses", text),
                  "write it as 10.1.0.0/16 or fd00::/8");
    block.prefix = *prefix;
    floor.opened_.push_back(block);
  }
  return floor;
}

std::string Floor::reason(const IpAddress& address) const {
  for (const Block& block : opened_)
    if (is_in(address, block.prefix, block.bits)) return "";
  if (const char* reason = policy::floor_reason(address)) return reason;
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) return "the host's addresses are not known";
  std::unique_ptr<ifaddrs, decltype(&::freeifaddrs)> owner(list, ::freeifaddrs);
  for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next)
    if (address_of(entry->ifa_addr) == address) return "this host";
  return "";
}

}  // namespace hutch::broker
