// Access tokens: made, and asked for with each request. A token is `ddo_` (of an organisation) or
// `ddp_` (of a person, for several organisations) and 256 random bits in hexadecimal. The store has
// only its SHA-256.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "control/store.h"

namespace hutch::control {

struct NewToken {
  int64_t id = 0;
  std::string text;  // shown once
};

// `organisations` are slugs; an organisation's token has exactly one.
NewToken create_token(Store& store, bool personal, const std::string& name,
                      const std::vector<std::string>& organisations,
                      std::optional<int64_t> expires_ms);

// The organisation, by slug, in whose name a request is made. `authorization` and `organisation`
// are the request's headers of these names (X-Deno-Org), empty when absent. Throws a Problem.
std::string authenticate(const Store& store, std::string_view authorization,
                         std::string_view organisation);

TokenHash hash_token(std::string_view text);

}  // namespace hutch::control
