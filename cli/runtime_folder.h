// The folder for what lives until the next boot: $HUTCH_RUNTIME, or /tmp/hutch-UID. Not
// $XDG_RUNTIME_DIR, which lies in /run: the emulated machine has a /run of its own and reads its
// token from here.
#pragma once

#include <string>

namespace hutch::cli {

// Makes it when it is missing. Throws a Failure when it is not a folder that only this user can
// use: /tmp is open to others, who could have put something there.
std::string runtime_folder();

}  // namespace hutch::cli
