#include "guest-agent/rpc/environment.h"

#include <unistd.h>

#include <algorithm>
#include <string_view>

#include "guest-agent/rpc/failure.h"

namespace hutch::agent::rpc {
namespace {

void check_name(const std::string& name) {
  if (name.empty() || name.find('=') != std::string::npos || name.find('\0') != std::string::npos)
    throw type_error("\"" + name + "\" is not the name of an environment variable");
}

}  // namespace

Environment::Environment(const char* const* list) {
  for (; *list != nullptr; list++) set_variable(*list);
}

void Environment::set_all(const std::vector<std::string>& variables) {
  for (const std::string& variable : variables) set_variable(variable);
}

void Environment::set_variable(std::string_view variable) {
  size_t equals = variable.find('=');
  if (equals != std::string_view::npos && equals > 0)
    variables_[std::string(variable.substr(0, equals))] = variable.substr(equals + 1);
}

void Environment::set(const std::string& name, const std::string& value) {
  check_name(name);
  if (value.find('\0') != std::string::npos)
    throw type_error("the value of " + name + " holds a zero byte");
  variables_[name] = value;
}

void Environment::remove(const std::string& name) {
  check_name(name);
  variables_.erase(name);
}

std::vector<std::string> Environment::with(const Variables& more, bool clear) const {
  Variables merged = clear ? Variables() : variables_;
  for (const auto& [name, value] : more) {
    check_name(name);
    merged[name] = value;
  }
  std::vector<std::string> list;
  for (const auto& [name, value] : merged) list.push_back(name + "=" + value);
  return list;
}

std::string find_program(const std::string& program, const std::string& path) {
  if (program.find('/') != std::string::npos) return program;
  for (size_t at = 0; at <= path.size();) {
    size_t end = std::min(path.find(':', at), path.size());
    std::string file = path.substr(at, end - at);
    if (!file.empty()) file += '/';
    file += program;
    if (::access(file.c_str(), X_OK) == 0) return file;
    at = end + 1;
  }
  return {};
}

}  // namespace hutch::agent::rpc
