// walk and expandGlob: the entries below a folder, with the meaning that Deno's standard library
// (std/fs) gives to their options. They run on a thread of their own.
#pragma once

#include <functional>
#include <string>

#include "guest-agent/rpc/failure.h"

namespace hutch::agent::rpc {

struct WalkEntry {
  std::string path, name;
  bool is_file = false, is_directory = false, is_symlink = false;
  Json to_json() const;
};

// Takes an entry; false ends the walk.
using TakeEntry = std::function<bool(const WalkEntry& entry)>;
// Tells, now and then, whether anybody still wants the entries: a walk may go on for ever without
// one, where links lead in circles.
using GoesOn = std::function<bool()>;
using Walk = std::function<void(const TakeEntry& take, const GoesOn& goes_on)>;

// Read the parameters of a call and return what walks; both throw Failure, the walk for what it
// finds.
Walk make_walk(const Json& params);
Walk make_glob_expansion(const Json& params);

}  // namespace hutch::agent::rpc
