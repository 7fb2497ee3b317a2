// The environment of the sandbox's processes: what the service was started with, changed by envSet
// and envDelete, and by the agent when the machine has become another one.
#pragma once

#include <map>
#include <string>
#include <string_view>
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
  // Sets each of a list of "NAME=value".
  void set_all(const std::vector<std::string>& variables);
  // The variables of a process: all of these unless `clear`, and `more` on top, as "NAME=value".
  std::vector<std::string> with(const Variables& more, bool clear) const;

 private:
  void set_variable(std::string_view variable);

  Variables variables_;
};

// Where `program` is in the directories of `path`, or itself when it has a slash; empty: nowhere.
std::string find_program(const std::string& program, const std::string& path);

}  // namespace hutch::agent::rpc
