#include "guest-agent/rpc/files.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/random.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <vector>

#include "base/fd.h"
#include "base/sys.h"
#include "guest-agent/rpc/codecs.h"
#include "guest-agent/rpc/file_mask.h"
#include "guest-agent/rpc/framing.h"
#include "guest-agent/rpc/parameters.h"

namespace hutch::agent::rpc {
namespace {

// As base64 this is what fits into an answer.
constexpr size_t kMaxReadable = size_t{70} << 20;
constexpr size_t kCopyPiece = 256 * 1024;
constexpr int64_t kMaxId = UINT32_MAX - 1;

std::string between(std::string_view operation, std::string_view from, std::string_view to) {
  return on_path(operation, from) + " -> '" + std::string(to) + "'";
}

// The answer of a method that has nothing to say. Throws when a call has failed.
std::string done(int result, const std::string& what) {
  if (result < 0) throw_errno(what);
  return "null";
}

Fd open_or_throw(const std::string& path, int flags, mode_t mode, const std::string& what) {
  Fd fd(::open(path.c_str(), flags | O_CLOEXEC, mode));
  if (!fd) throw_errno(what);
  return fd;
}

mode_t mode_of(const Json& params, mode_t otherwise) {
  return static_cast<mode_t>(optional_integer(params, "mode", 0, UINT32_MAX).value_or(otherwise) &
                             07777);
}

std::string read_whole(const std::string& path) {
  std::string what = on_path("readfile", path);
  Fd fd = open_or_throw(path, O_RDONLY, 0, what);
  struct stat status {};
  if (::fstat(fd.get(), &status) < 0) throw_errno(what);
  std::string bytes;
  if (S_ISREG(status.st_mode)) {
    if (static_cast<size_t>(status.st_size) > kMaxReadable)
      throw Failure("Error",
                    "File too large (os error 27): " + what + ": it has " +
                        std::to_string(status.st_size) + " bytes, at most " +
                        std::to_string(kMaxReadable) + " are read at once; open it instead",
                    "EFBIG");
    bytes.reserve(static_cast<size_t>(status.st_size) + 1);
  }
  for (;;) {
    size_t at = bytes.size();
    bytes.resize(at + std::max(kCopyPiece, bytes.capacity() - at));
    ssize_t count = ::read(fd.get(), bytes.data() + at, bytes.size() - at);
    bytes.resize(at + static_cast<size_t>(std::max<ssize_t>(count, 0)));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw_errno(what);
    if (count == 0) return bytes;
    if (bytes.size() > kMaxReadable)
      throw Failure("Error", "File too large (os error 27): " + what + "; open it instead",
                    "EFBIG");
  }
}

std::string read_file(Json& params) {
  std::string bytes = read_whole(text_of(params, "path"));
  std::string text = "\"";
  text.reserve(bytes.size() / 3 * 4 + 8);
  append_base64(text, bytes);
  return text += '"';
}

std::string read_text_file(Json& params) {
  std::string path = text_of(params, "path");
  std::string text = valid_utf8(read_whole(path));
  // What has to be escaped may be six times as long: more than an answer, and than the guest's
  // memory.
  if (json_size(text) > kMaxMessageOut)
    throw Failure("Error",
                  "File too large (os error 27): " + on_path("readfile", path) +
                      ": as text of JSON it has " + std::to_string(json_size(text)) +
                      " bytes; read it as bytes instead",
                  "EFBIG");
  return json_text(text);
}

std::string read_dir(Json& params) {
  std::string path = text_of(params, "path");
  std::unique_ptr<DIR, int (*)(DIR*)> folder(::opendir(path.c_str()), ::closedir);
  if (!folder) throw_errno(on_path("readdir", path));
  Json entries = Json::array();
  for (;;) {
    errno = 0;
    const dirent* entry = ::readdir(folder.get());
    if (entry == nullptr && errno != 0) throw_errno(on_path("readdir", path));
    if (entry == nullptr) return json_text(entries);
    std::string name = entry->d_name;
    if (name == "." || name == "..") continue;
    unsigned char type = entry->d_type;
    if (type == DT_UNKNOWN) {
      struct stat status {};
      if (::fstatat(::dirfd(folder.get()), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) < 0)
        continue;  // gone meanwhile
      type = static_cast<unsigned char>(IFTODT(status.st_mode));
    }
    entries.push_back({{"name", name},
                       {"isFile", type == DT_REG},
                       {"isDirectory", type == DT_DIR},
                       {"isSymlink", type == DT_LNK}});
  }
}

std::string remove_path(Json& params) {
  std::string path = text_of(params, "path");
  std::string what = on_path("remove", path);
  struct stat status {};
  if (::lstat(path.c_str(), &status) < 0) throw_errno(what);
  if (!S_ISDIR(status.st_mode)) return done(::unlink(path.c_str()), what);
  if (!flag_of(object_of(params, "options"), "recursive", false))
    return done(::rmdir(path.c_str()), what);
  std::error_code error;
  std::filesystem::remove_all(path, error);
  if (error) throw errno_failure(error.value(), what);
  return "null";
}

std::string make_directory(Json& params) {
  std::string path = text_of(params, "path");
  const Json& options = object_of(params, "options");
  mode_t mode = mode_of(options, 0777);
  std::string what = on_path("mkdir", path);
  if (!flag_of(options, "recursive", false)) return done(::mkdir(path.c_str(), mode), what);
  for (size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
    std::string part = path.substr(0, end);
    if (::mkdir(part.c_str(), mode) < 0) {
      int error_number = errno;
      struct stat status {};
      bool is_folder = ::stat(part.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
      if (!is_folder) throw errno_failure(error_number, what);
    }
    if (end == std::string::npos) return "null";
  }
}

std::string rename_path(Json& params) {
  std::string from = text_of(params, "oldPath"), to = text_of(params, "newPath");
  return done(::rename(from.c_str(), to.c_str()), between("rename", from, to));
}

std::string stat_path(Json& params) {
  std::string path = text_of(params, "path");
  return json_text(file_information(AT_FDCWD, path, true, on_path("stat", path)));
}

std::string lstat_path(Json& params) {
  std::string path = text_of(params, "path");
  return json_text(file_information(AT_FDCWD, path, false, on_path("lstat", path)));
}

std::string change_mode(Json& params) {
  std::string path = text_of(params, "path");
  auto mode = static_cast<mode_t>(integer_of(params, "mode", 0, UINT32_MAX) & 07777);
  return done(::chmod(path.c_str(), mode), on_path("chmod", path));
}

std::string change_owner(Json& params) {
  std::string path = text_of(params, "path");
  auto user = static_cast<uid_t>(optional_integer(params, "uid", 0, kMaxId).value_or(-1));
  auto group = static_cast<gid_t>(optional_integer(params, "gid", 0, kMaxId).value_or(-1));
  return done(::chown(path.c_str(), user, group), on_path("chown", path));
}

std::string copy_file(Json& params) {
  std::string from = text_of(params, "fromPath"), to = text_of(params, "toPath");
  std::string what = between("copy", from, to);
  Fd source = open_or_throw(from, O_RDONLY, 0, what);
  struct stat status {
  }, other{};
  if (::fstat(source.get(), &status) < 0) throw_errno(what);
  if (!S_ISREG(status.st_mode))
    throw errno_failure(S_ISDIR(status.st_mode) ? EISDIR : EINVAL, what);
  // Onto itself there is nothing to copy; truncating would lose it.
  if (::stat(to.c_str(), &other) == 0 && other.st_dev == status.st_dev &&
      other.st_ino == status.st_ino)
    return "null";
  mode_t mode = status.st_mode & 07777;
  Fd target = open_or_throw(to, O_WRONLY | O_CREAT | O_TRUNC, mode, what);
  if (::fchmod(target.get(), mode) < 0) throw_errno(what);
  std::string buffer(kCopyPiece, '\0');
  for (;;) {
    ssize_t count = ::read(source.get(), buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw_errno(what);
    if (count == 0) return "null";
    for (size_t at = 0; at < static_cast<size_t>(count);) {
      ssize_t written = ::write(target.get(), buffer.data() + at, static_cast<size_t>(count) - at);
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) throw_errno(what);
      at += static_cast<size_t>(written);
    }
  }
}

std::string link_path(Json& params) {
  std::string target = text_of(params, "target"), path = text_of(params, "path");
  return done(::link(target.c_str(), path.c_str()), between("link", target, path));
}

std::string symlink_path(Json& params) {
  std::string target = text_of(params, "target"), path = text_of(params, "path");
  return done(::symlink(target.c_str(), path.c_str()), between("symlink", target, path));
}

std::string read_link(Json& params) {
  std::string path = text_of(params, "path");
  std::string target(PATH_MAX, '\0');
  ssize_t size = ::readlink(path.c_str(), target.data(), target.size());
  if (size < 0) throw_errno(on_path("readlink", path));
  target.resize(static_cast<size_t>(size));
  return json_text(target);
}

std::string real_path(Json& params) {
  std::string path = text_of(params, "path");
  std::unique_ptr<char, void (*)(void*)> resolved(::realpath(path.c_str(), nullptr), std::free);
  if (!resolved) throw_errno(on_path("realpath", path));
  return json_text(std::string(resolved.get()));
}

std::string truncate_path(Json& params) {
  std::string path = text_of(params, "name");
  int64_t length = optional_integer(params, "length", 0, kMaxInteger).value_or(0);
  return done(::truncate(path.c_str(), length), on_path("truncate", path));
}

std::string change_times(Json& params) {
  std::string path = text_of(params, "path");
  timespec times[2];
  read_times(params, times);
  return done(::utimensat(AT_FDCWD, path.c_str(), times, 0), on_path("utime", path));
}

std::string change_umask(Json& params) {
  auto mask = optional_integer(params, "mask", 0, UINT32_MAX);
  return std::to_string(mask ? set_file_mask(static_cast<mode_t>(*mask & 0777)) : file_mask());
}

std::string random_name() {
  constexpr std::string_view kLetters = "0123456789abcdef";
  std::array<unsigned char, 8> bytes;
  if (::getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size()))
    throw_errno("getrandom");
  std::string name;
  for (unsigned char byte : bytes) name += {kLetters[byte >> 4], kLetters[byte & 15]};
  return name;
}

// Calls `make` with new paths until one is not taken.
template <typename Make>
std::string make_temporary(const Json& params, const char* operation, Make make) {
  const Json& options = object_of(params, "options");
  std::string prefix = optional_text(options, "prefix").value_or("");
  std::string suffix = optional_text(options, "suffix").value_or("");
  if ((prefix + suffix).find('/') != std::string::npos)
    throw type_error("the prefix and suffix of a temporary file hold no slash");
  std::string folder = optional_text(options, "dir").value_or("/tmp");
  for (int attempt = 0;; attempt++) {
    std::string path = folder + "/" + prefix + random_name() + suffix;
    if (make(path) >= 0) return json_text(path);
    if (errno != EEXIST || attempt > 100) throw_errno(on_path(operation, path));
  }
}

std::string make_temporary_folder(Json& params) {
  return make_temporary(params, "mkdir",
                        [](const std::string& path) { return ::mkdir(path.c_str(), 0700); });
}

std::string make_temporary_file(Json& params) {
  return make_temporary(params, "open", [](const std::string& path) {
    Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    return fd ? 0 : -1;
  });
}

Json to_json(const statx_timestamp& time) {
  return to_iso_date({.tv_sec = time.tv_sec, .tv_nsec = time.tv_nsec});
}

struct Named {
  std::string_view name;
  FileMethod method;
};
constexpr Named kMethods[] = {
    {"readFile", read_file},
    {"readTextFile", read_text_file},
    {"readDir", read_dir},
    {"remove", remove_path},
    {"mkdir", make_directory},
    {"rename", rename_path},
    {"stat", stat_path},
    {"lstat", lstat_path},
    {"chmod", change_mode},
    {"chown", change_owner},
    {"copyFile", copy_file},
    {"link", link_path},
    {"symlink", symlink_path},
    {"readLink", read_link},
    {"realPath", real_path},
    {"truncate", truncate_path},
    {"utime", change_times},
    {"umask", change_umask},
    {"makeTempDir", make_temporary_folder},
    {"makeTempFile", make_temporary_file},
};

}  // namespace

FileMethod find_file_method(std::string_view name) {
  for (const Named& named : kMethods) {
    if (named.name == name) return named.method;
  }
  return nullptr;
}

std::string on_path(std::string_view operation, std::string_view path) {
  return std::string(operation) + " '" + std::string(path) + "'";
}

std::string json_text(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

void read_times(const Json& params, timespec (&times)[2]) {
  const char* keys[] = {"atime", "mtime"};
  for (size_t i = 0; i < 2; i++) {
    auto time = parse_iso_date(text_of(params, keys[i]));
    if (!time) throw type_error(std::string("\"") + keys[i] + "\" must be a date of ISO 8601");
    times[i] = *time;
  }
}

Json file_information(int fd, const std::string& path, bool follow, const std::string& what) {
  struct statx status {};
  int flags = (follow ? 0 : AT_SYMLINK_NOFOLLOW) | (path.empty() && fd >= 0 ? AT_EMPTY_PATH : 0);
  if (::statx(fd, path.c_str(), flags, STATX_BASIC_STATS | STATX_BTIME, &status) < 0)
    throw_errno(what);
  mode_t mode = status.stx_mode;
  bool knows_birth = (status.stx_mask & STATX_BTIME) != 0;
  return {{"isFile", S_ISREG(mode)},
          {"isDirectory", S_ISDIR(mode)},
          {"isSymlink", S_ISLNK(mode)},
          {"isBlockDevice", S_ISBLK(mode)},
          {"isCharDevice", S_ISCHR(mode)},
          {"isFifo", S_ISFIFO(mode)},
          {"isSocket", S_ISSOCK(mode)},
          {"size", status.stx_size},
          {"mtime", to_json(status.stx_mtime)},
          {"atime", to_json(status.stx_atime)},
          {"ctime", to_json(status.stx_ctime)},
          {"birthtime", to_json(knows_birth ? status.stx_btime : status.stx_ctime)},
          {"mode", status.stx_mode},
          {"dev", ::makedev(status.stx_dev_major, status.stx_dev_minor)},
          {"ino", status.stx_ino},
          {"nlink", status.stx_nlink},
          {"uid", status.stx_uid},
          {"gid", status.stx_gid},
          {"rdev", ::makedev(status.stx_rdev_major, status.stx_rdev_minor)},
          {"blksize", status.stx_blksize},
          {"blocks", status.stx_blocks}};
}

}  // namespace hutch::agent::rpc
