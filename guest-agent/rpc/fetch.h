// fetch: an HTTP request, to the HTTP server of a Deno process over its socket, or to the network
// by the image's curl, which knows TLS, proxies and certificates.
#pragma once

#include <memory>

#include "guest-agent/rpc/connection.h"
#include "guest-agent/rpc/deno.h"
#include "guest-agent/rpc/workers.h"

namespace hutch::agent::rpc {

// The loop's thread. Throws Failure.
void start_fetch(Loop& loop, Workers& waiters, const Deno& deno, const Environment& environment,
                 const std::shared_ptr<Call>& call);

}  // namespace hutch::agent::rpc
