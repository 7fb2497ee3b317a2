#include "broker/floor.h"

#include <charconv>
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
  const Result<bool> is_own = own_->contains(address);
  if (!is_own) return "the host's addresses are not known";
  if (*is_own) return "this host";
  return "";
}

}  // namespace hutch::broker
