// Host names as policies and lookups compare them.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace hutch::policy {

// The one form of a name: lower case, without the final dot. Nothing for what is no host name: an
// empty or too long label (63) or name (253), a character beyond letters, digits, '-' and '_', a
// label that begins or ends with '-', and a last label of digits alone, which resolvers take for
// an address (127.1, 2130706433). Other scripts have to be in their ASCII form (xn--).
std::optional<std::string> canonical_host_name(std::string_view text);

}  // namespace hutch::policy
