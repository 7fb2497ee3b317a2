#include "base/ip_address.h"

#include <arpa/inet.h>

namespace hutch {

std::string IpAddress::text() const {
  std::array<char, INET6_ADDRSTRLEN> text{};
  ::inet_ntop(is_v6_ ? AF_INET6 : AF_INET, bytes_.data(), text.data(), text.size());
  return text.data();
}

}  // namespace hutch
