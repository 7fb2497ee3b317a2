#include "guest-agent/environment.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>

#include "base/sys.h"

namespace hutch::agent {
namespace {

constexpr const char* kFile = "/etc/environment";
constexpr off_t kMaxFile = 64 * 1024;

std::string_view name_of(std::string_view variable) {
  return variable.substr(0, variable.find('='));
}

void set(std::vector<std::string>& environment, const std::string& variable) {
  auto same = std::find_if(environment.begin(), environment.end(), [&](const std::string& other) {
    return name_of(other) == name_of(variable);
  });
  if (same != environment.end()) {
    *same = variable;
  } else {
    environment.push_back(variable);
  }
}

// The file is whatever root in the guest made of it: nothing is waited for, and what is no ordinary
// file is none.
std::string read_system_environment() {
  Result<Fd> file = open_file(kFile, O_RDONLY | O_NONBLOCK | O_NOCTTY);
  struct stat status {};
  if (!file || ::fstat(file->get(), &status) < 0 || !S_ISREG(status.st_mode) ||
      status.st_size > kMaxFile)
    return {};
  std::string text(static_cast<size_t>(status.st_size), '\0');
  if (!read_exactly_at(file->get(), std::as_writable_bytes(std::span(text)), 0)) return {};
  return text;
}

}  // namespace

std::vector<std::string> parse_system_environment(std::string_view text) {
  constexpr std::string_view kBlank = " \t\r";
  std::vector<std::string> variables;
  while (!text.empty()) {
    size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    line.remove_prefix(std::min(line.find_first_not_of(kBlank), line.size()));
    if (line.starts_with("export ")) line.remove_prefix(7);
    line = line.substr(0, line.find_last_not_of(kBlank) + 1);
    size_t equals = line.find('=');
    if (equals == 0 || equals == std::string_view::npos || line.front() == '#' ||
        line.substr(0, equals).find_first_of(" \t\"'") != std::string_view::npos ||
        line.find('\0') != std::string_view::npos)
      continue;
    std::string_view value = line.substr(equals + 1);
    if (value.size() >= 2 && (value.front() == '"' || value.front() == '\'') &&
        value.back() == value.front())
      value = value.substr(1, value.size() - 2);
    variables.push_back(std::string(line.substr(0, equals + 1)) + std::string(value));
  }
  return variables;
}

std::vector<std::string> make_environment(const Account& account,
                                          const protocol::agent::Spawn& request) {
  std::vector<std::string> environment;
  if (!request.clear_environment) {
    environment = {
        std::string("PATH=") + kDefaultPath, "HOME=" + account.home,   "USER=" + account.name,
        "LOGNAME=" + account.name,           "SHELL=" + account.shell, "LANG=C.UTF-8"};
    for (const std::string& variable : parse_system_environment(read_system_environment()))
      set(environment, variable);
  }
  if (request.terminal) set(environment, "TERM=xterm-256color");
  for (const std::string& variable : request.environment) set(environment, variable);
  return environment;
}

}  // namespace hutch::agent
