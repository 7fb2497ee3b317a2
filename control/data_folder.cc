#include "control/data_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <stdexcept>

#include "artefacts/artefacts.h"
#include "base/sys.h"
#include "control/private_file.h"
#include "control/problem.h"
#include "control/tokens.h"

namespace hutch::control {
namespace {

constexpr const char* kLocalOrganisation = "local";
constexpr size_t kMaxFile = 64 * 1024;

// A shell's assignment; single quotes keep everything but themselves.
std::string line(const char* name, const std::string& value) {
  std::string quoted;
  for (char c : value) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return fmt::format("export {}='{}'\n", name, quoted);
}

bool is_valid(const Store& store, const std::string& token) {
  try {
    authenticate(store, "Bearer " + token, "");
    return true;
  } catch (const Problem&) {
    return false;
  }
}

}  // namespace

DataFolder::DataFolder(std::string path) : path_(std::move(path)) {
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(path_).parent_path(), error);
  if (::mkdir(path_.c_str(), 0700) < 0 && errno != EEXIST)
    throw std::runtime_error(
        fail_errno(errno, "making the folder " + path_, "name another with --data-folder DIR")
            .value()
            .text());
  struct stat status {};
  if (::stat(path_.c_str(), &status) < 0 || !S_ISDIR(status.st_mode) ||
      status.st_uid != ::geteuid() || (status.st_mode & 077) != 0)
    throw std::runtime_error(
        fmt::format("{} holds tokens and is not a folder for this user alone; run: chmod 700 {}",
                    path_, path_));
}

std::string DataFolder::saved(const std::string& what, const std::string& scratch) const {
  if (!artefacts::is_in_machine()) return path_ + "/" + what;
  std::string name = path_;
  std::replace(name.begin(), name.end(), '/', '-');
  return scratch + "/hutch-" + what + name;
}

std::string DataFolder::templates(const std::string& scratch) const {
  return saved("templates", scratch);
}

std::string DataFolder::snapshots(const std::string& scratch) const {
  return saved("snapshots", scratch);
}

Fd DataFolder::lock() const {
  Fd file = value_or_throw(open_file(path_ + "/lock", O_RDWR | O_CREAT, 0600));
  if (::flock(file.get(), LOCK_EX | LOCK_NB) < 0)
    throw std::runtime_error(fmt::format(
        "another hutch serve uses {}; stop it, or name another folder with --data-folder", path_));
  return file;
}

std::string DataFolder::local_token(Store& store) const {
  std::string path = path_ + "/token";
  if (Result<std::string> kept = read_file(path, kMaxFile)) {
    while (kept->ends_with('\n')) kept->pop_back();
    if (is_valid(store, *kept)) return *kept;
  }
  std::string token =
      create_token(store, false, "printed at start", {kLocalOrganisation}, std::nullopt).text;
  write_private_file(path, token + "\n");
  return token;
}

std::string DataFolder::write_environment(const Config& config, const std::string& token,
                                          const std::string& authority) const {
  std::string url = base_url(config);
  std::string text = line("DENO_DEPLOY_TOKEN", token) + line("DENO_DEPLOY_ENDPOINT", url) +
                     line("DENO_SANDBOX_ENDPOINT", url);
  // Deno reads the one, Node the other.
  if (!authority.empty())
    text += line("DENO_CERT", authority) + line("NODE_EXTRA_CA_CERTS", authority);
  write_private_file(path_ + "/environment", text);
  return text;
}

std::string DataFolder::read_environment(const std::string& path) {
  Result<std::string> text = read_file(path + "/environment", kMaxFile);
  if (text) return *text;
  throw std::runtime_error(fmt::format(
      "no server has used {} yet; start one: hutch serve, or name its --data-folder", path));
}

}  // namespace hutch::control
