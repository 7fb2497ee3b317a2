// writeFile and writeTextFile: the content comes with the call, or as a stream whose pieces are
// written one after another.
#pragma once

#include <memory>

#include "guest-agent/rpc/connection.h"
#include "guest-agent/rpc/workers.h"

namespace hutch::agent::rpc {

// The loop's thread. `is_text`: the content of the call is a text and not base64. Throws Failure.
void start_write_file(Workers& workers, const std::shared_ptr<Call>& call, bool is_text);

}  // namespace hutch::agent::rpc
