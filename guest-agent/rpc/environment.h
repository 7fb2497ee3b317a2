// The environment of the sandbox's processes: what the service was started with, changed by envSet
// and envDelete.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace hutch::agent::rpc {

using Variables = std::map<std::string, std::string>;

class Environment {
 public:
  // From a list of "NAME=value" that a null pointer ends.
  explicit Environment(const char* const* list);

  const Variables& all() const { return variables_; }
  // Throw a TypeError for a name that no variable can have, or a zero byte.
  void set(const std::string& name, const std::string& value);
  void remove(const std::string& name);
  // The variables of a process: all of these unless `clear`, and `more` on top, as "NAME=value".
  std::vector<std::string> with(const Variables& more, bool clear) const;

 private:
  Variables variables_;
};

// Where `program` is in the directories of `path`, or itself when it has a slash; empty: nowhere.
std::string find_program(const std::string& program, const std::string& path);

}  // namespace hutch::agent::rpc
