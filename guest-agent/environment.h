// The environment of a process that the agent starts.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "guest-agent/accounts.h"
#include "protocol/agent.h"

namespace hutch::agent {

// The user's own variables, then those of /etc/environment, then the request's; of equal names the
// last counts. Only the request's where it asks for a clear environment.
std::vector<std::string> make_environment(const Account& account,
                                          const protocol::agent::Spawn& request);

// Where programs are looked for when nobody says.
inline constexpr const char* kDefaultPath =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

// The variables of a text in the format of /etc/environment (pam_env(8)): lines NAME=VALUE, perhaps
// with `export` before and quotes around the value; what is none of these is passed over.
std::vector<std::string> parse_system_environment(std::string_view text);

}  // namespace hutch::agent
