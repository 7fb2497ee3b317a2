// The floor: the addresses that no sandbox may reach whatever its policy says.
#pragma once

#include "base/ip_address.h"

namespace hutch::policy {

// Why the floor keeps an address from every sandbox, in a word or two ("loopback", "private",
// "metadata", ...); nothing for an address of the open Internet. Addresses that carry an IPv4
// address inside (mapped, NAT64, 6to4, Teredo) are judged by that one, too. The addresses of this
// very host are not known here: whoever connects adds them.
const char* floor_reason(const IpAddress& address);

}  // namespace hutch::policy
