#include "net/names.h"

#include "base/sys.h"

namespace hutch::net {

bool Names::allows_literal(const IpAddress& address, uint16_t port) const {
  // An address that could stand for a name stands for nothing else.
  if (address.is_v4() && address.v4_value() - NameTable::kFirstAddress < NameTable::kAddresses)
    return false;
  return policy_.allows(address, port).has_value();
}

bool Names::allows(const FlowTarget& target) const {
  return target.name.empty() ? allows_literal(target.address, target.port)
                             : policy_.allows(target.name, target.port).has_value();
}

std::optional<std::string> Names::find(const IpAddress& address) {
  std::optional<std::string> name = table_.find(address, monotonic_ns());
  // The table may be older than the policy.
  if (name && !policy_.knows(*name)) return std::nullopt;
  return name;
}

void Names::hold(const IpAddress& address) {
  table_.hold(address);
}

void Names::release(const IpAddress& address) {
  table_.release(address, monotonic_ns());
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
