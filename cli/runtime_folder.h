// The folder for what lives until the next boot: $XDG_RUNTIME_DIR/hutch, or /tmp/hutch-UID.
#pragma once

#include <string>

namespace hutch::cli {

// Makes it when it is missing. Throws a Failure when it is not a folder that only this user can
// use: /tmp is open to others, who could have put something there.
std::string runtime_folder();

}  // namespace hutch::cli
