#include "net/names.h"

#include <algorithm>
#include <span>

#include "base/sys.h"
#include "protocol/guest_network.h"

namespace hutch::net {

namespace {

// Bytes before the table's address in a name's address of version 6.
constexpr size_t kPrefix6 = 12;

// The table's address, which is of version 4, of one that stands for a name in either version.
IpAddress table_address(const IpAddress& address) {
  const auto bytes = address.bytes();
  const auto prefix = std::span(protocol::guest_network::kNames6).first(kPrefix6);
  if (address.is_v4() || !std::ranges::equal(bytes.first(kPrefix6), prefix)) return address;
  return IpAddress::v4(bytes[12], bytes[13], bytes[14], bytes[15]);
}

// Of the gateway's own networks (protocol/guest_network.h): nothing out there.
bool is_own(const IpAddress& address) {
  constexpr size_t kPrefix = 6;
  return address.is_v6() &&
         std::ranges::equal(address.bytes().first(kPrefix),
                            std::span(protocol::guest_network::kGuest6).first(kPrefix));
}

}  // namespace

bool Names::allows_literal(const IpAddress& address, uint16_t port) const {
  // An address that could stand for a name stands for nothing else.
  if (address.is_v4() && address.v4_value() - NameTable::kFirstAddress < NameTable::kAddresses)
    return false;
  if (is_own(address)) return false;
  return policy_.allows(address, port).has_value();
}

bool Names::allows(const FlowTarget& target) const {
  return target.name.empty() ? allows_literal(target.address, target.port)
                             : policy_.allows(target.name, target.port).has_value();
}

std::optional<std::string> Names::find(const IpAddress& address) {
  std::optional<std::string> name = table_.find(table_address(address), monotonic_ns());
  // The table may be older than the policy.
  if (name && !policy_.knows(*name)) return std::nullopt;
  return name;
}

void Names::hold(const IpAddress& address) {
  table_.hold(table_address(address));
}

void Names::release(const IpAddress& address) {
  table_.release(table_address(address), monotonic_ns());
}

bool Names::allows(const IpAddress& address, uint16_t port) {
  bool allowed = allows_literal(address, port);
  if (!allowed && denied_) denied_({"", address, port});
  return allowed;
}

std::optional<std::vector<std::byte>> Names::answer(std::span<const std::byte> query,
                                                    size_t limit) {
  std::vector<std::byte> answer = dns_.answer(query, monotonic_ns());
  if (answer.empty() || answer.size() > limit) return std::nullopt;
  return answer;
}

}  // namespace hutch::net
