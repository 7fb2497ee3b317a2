#include "guest-agent/accounts.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <optional>

#include "base/fd.h"

namespace hutch::agent {
namespace {

constexpr size_t kLargestFile = 4 * 1024 * 1024;
constexpr size_t kMostGroups = 65536;  // NGROUPS_MAX of Linux

// The text of an account file; empty when there is none.
Result<std::string> read_accounts(const std::string& path) {
  // Non-blocking, so that a FIFO in its place cannot hold the agent up.
  Fd fd(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  if (!fd) {
    if (errno == ENOENT) return std::string();
    return fail_errno(errno, fmt::format("opening {}", path));
  }
  struct stat status {};
  if (::fstat(fd.get(), &status) < 0) return fail_errno(errno, fmt::format("reading {}", path));
  if (!S_ISREG(status.st_mode)) return fail(fmt::format("{} is not a regular file", path));
  std::string text;
  std::array<char, 4096> buffer;
  for (;;) {
    ssize_t count = ::read(fd.get(), buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return fail_errno(errno, fmt::format("reading {}", path));
    if (count == 0) return text;
    if (text.size() + static_cast<size_t>(count) > kLargestFile)
      return fail(fmt::format("{} is larger than {} bytes", path, kLargestFile));
    text.append(buffer.data(), static_cast<size_t>(count));
  }
}

// Takes everything up to `separator` off the front of `text`.
std::string_view cut(std::string_view& text, char separator) {
  size_t end = text.find(separator);
  std::string_view head = text.substr(0, end);
  text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
  return head;
}

// Ids are 32 bits, and -1 means "no change" to the kernel, so it is nobody's.
std::optional<uint32_t> parse_id(std::string_view text) {
  uint32_t value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value == UINT32_MAX)
    return std::nullopt;
  return value;
}

std::optional<Account> parse_account(std::string_view line) {
  Account account;
  account.name = cut(line, ':');
  cut(line, ':');  // the password's place
  std::optional<uint32_t> user = parse_id(cut(line, ':'));
  std::optional<uint32_t> group = parse_id(cut(line, ':'));
  cut(line, ':');  // the person's name
  std::string_view home = cut(line, ':');
  std::string_view shell = cut(line, ':');
  if (account.name.empty() || !user || !group) return std::nullopt;
  account.user = *user;
  account.group = *group;
  if (!home.empty()) account.home = home;
  if (!shell.empty()) account.shell = shell;
  return account;
}

bool has_member(std::string_view members, std::string_view name) {
  while (!members.empty()) {
    if (cut(members, ',') == name) return true;
  }
  return false;
}

}  // namespace

Result<Account> find_account(std::string_view user, const std::string& folder) {
  if (user.empty()) user = "root";
  std::string text = TRY(read_accounts(folder + "/passwd"));
  std::optional<uint32_t> number = parse_id(user);
  std::optional<Account> found;
  bool by_name = false;
  for (std::string_view rest = text; !rest.empty() && !by_name;) {
    std::optional<Account> account = parse_account(cut(rest, '\n'));
    if (!account) continue;
    by_name = account->name == user;
    if (by_name || (!found && number && account->user == *number)) found = std::move(account);
  }
  if (!found) {
    if (user == "root") {
      found = Account{.name = "root", .home = "/root"};
    } else if (number) {
      found = Account{.name = std::string(user), .user = *number, .group = *number};
    } else {
      return fail(fmt::format("there is no user \"{}\" in {}/passwd", user, folder));
    }
  }

  text = TRY(read_accounts(folder + "/group"));
  for (std::string_view rest = text; !rest.empty();) {
    std::string_view line = cut(rest, '\n');
    cut(line, ':');  // name
    cut(line, ':');  // the password's place
    std::optional<uint32_t> group = parse_id(cut(line, ':'));
    if (!group || !has_member(line, found->name)) continue;
    found->groups.push_back(*group);
  }
  found->groups.push_back(found->group);
  std::sort(found->groups.begin(), found->groups.end());
  found->groups.erase(std::unique(found->groups.begin(), found->groups.end()), found->groups.end());
  if (found->groups.size() > kMostGroups)
    return fail(fmt::format("user {} is in {} groups; the kernel takes {}", found->name,
                            found->groups.size(), kMostGroups));
  return *std::move(found);
}

}  // namespace hutch::agent
