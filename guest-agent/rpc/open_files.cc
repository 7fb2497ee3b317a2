#include "guest-agent/rpc/open_files.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>

#include "guest-agent/rpc/codecs.h"
#include "guest-agent/rpc/files.h"
#include "guest-agent/rpc/parameters.h"

namespace hutch::agent::rpc {
namespace {

// One more gets EMFILE, long before the service has no descriptor left for its own work.
constexpr size_t kMaxFiles = 512;
// A reader that asks for more gets this much, as read(2) allows.
constexpr int64_t kMaxRead = int64_t{16} << 20;

std::string done(int result, const char* what) {
  if (result < 0) throw_errno(what);
  return "null";
}

// A number, or one as text, as the client sends a bigint.
int64_t offset_of(const Json& params) {
  auto found = params.find("offset");
  if (found == params.end() || !found->is_string())
    return integer_of(params, "offset", -kMaxInteger, kMaxInteger);
  const std::string& text = found->get_ref<const std::string&>();
  int64_t offset = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), offset);
  if (error != std::errc() || end != text.data() + text.size())
    throw type_error("\"offset\" must be a whole number of 64 bits");
  return offset;
}

}  // namespace

OpenFiles::Method OpenFiles::find_method(std::string_view name) {
  struct Named {
    std::string_view name;
    Method method;
  };
  static constexpr Named kMethods[] = {
      {"open", &OpenFiles::open},
      {"create", &OpenFiles::create},
      {"fileClose", &OpenFiles::close},
      {"fileLock", &OpenFiles::lock},
      {"fileUnlock", &OpenFiles::unlock},
      {"fileRead", &OpenFiles::read},
      {"fileWrite", &OpenFiles::write},
      {"fileSeek", &OpenFiles::seek},
      {"fileStat", &OpenFiles::stat},
      {"fileSync", &OpenFiles::sync},
      {"fileSyncData", &OpenFiles::sync_data},
      {"fileTruncate", &OpenFiles::truncate},
      {"fileUtime", &OpenFiles::change_times},
  };
  for (const Named& named : kMethods) {
    if (named.name == name) return named.method;
  }
  return nullptr;
}

std::string OpenFiles::add(Fd fd, const void* owner) {
  std::lock_guard guard(mutex_);
  if (files_.size() >= kMaxFiles) throw errno_failure(EMFILE, "open");
  int64_t id = next_++;
  files_[id] = std::make_shared<File>(File{std::move(fd), owner});
  return json_text({{"fileHandleId", id}});
}

std::shared_ptr<OpenFiles::File> OpenFiles::find(const Json& params) {
  int64_t id = integer_of(params, "fileHandleId", 0, kMaxInteger);
  std::lock_guard guard(mutex_);
  auto found = files_.find(id);
  if (found == files_.end()) throw Failure("BadResource", "Bad resource ID", "EBADF");
  return found->second;
}

void OpenFiles::close_all_of(const void* owner) {
  std::lock_guard guard(mutex_);
  std::erase_if(files_, [&](const auto& entry) { return entry.second->owner == owner; });
}

std::string OpenFiles::open(Json& params, const void* owner) {
  std::string path = text_of(params, "path");
  const Json& options = object_of(params, "options");
  bool append = flag_of(options, "append", false);
  bool writes = flag_of(options, "write", false) || append;
  bool truncates = flag_of(options, "truncate", false);
  bool creates = flag_of(options, "create", false), is_new = flag_of(options, "createNew", false);
  // Without options a file is read.
  bool reads = flag_of(options, "read", !writes && !truncates && !creates && !is_new);
  if (!reads && !writes)
    throw type_error("OpenOptions requires at least one option to be true: read, write or append");
  if ((truncates || creates || is_new) && !writes)
    throw type_error("'truncate', 'create' and 'createNew' require 'write' or 'append'");
  int flags = (reads && writes ? O_RDWR : writes ? O_WRONLY : O_RDONLY) | O_CLOEXEC;
  if (append) flags |= O_APPEND;
  if (truncates) flags |= O_TRUNC;
  if (creates) flags |= O_CREAT;
  if (is_new) flags |= O_CREAT | O_EXCL;
  auto mode =
      static_cast<mode_t>(optional_integer(options, "mode", 0, UINT32_MAX).value_or(0666) & 07777);
  Fd fd(::open(path.c_str(), flags, mode));
  if (!fd) throw_errno(on_path("open", path));
  return add(std::move(fd), owner);
}

std::string OpenFiles::create(Json& params, const void* owner) {
  std::string path = text_of(params, "path");
  Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (!fd) throw_errno(on_path("open", path));
  return add(std::move(fd), owner);
}

std::string OpenFiles::close(Json& params, const void*) {
  find(params);
  std::lock_guard guard(mutex_);
  files_.erase(integer_of(params, "fileHandleId", 0, kMaxInteger));
  return "null";
}

std::string OpenFiles::lock(Json& params, const void*) {
  auto file = find(params);
  int kind = flag_of(params, "exclusive", false) ? LOCK_EX : LOCK_SH;
  while (::flock(file->fd.get(), kind) < 0) {
    if (errno != EINTR) throw_errno("lock");
  }
  return "null";
}

std::string OpenFiles::unlock(Json& params, const void*) {
  return done(::flock(find(params)->fd.get(), LOCK_UN), "unlock");
}

std::string OpenFiles::read(Json& params, const void*) {
  auto file = find(params);
  int64_t length = integer_of(params, "length", 0, kMaxInteger);
  std::string bytes(static_cast<size_t>(std::min(length, kMaxRead)), '\0');
  ssize_t count;
  do {
    count = ::read(file->fd.get(), bytes.data(), bytes.size());
  } while (count < 0 && errno == EINTR);
  if (count < 0) throw_errno("read");
  if (count == 0 && length > 0) return R"({"data":null})";
  bytes.resize(static_cast<size_t>(count));
  std::string text = R"({"data":")";
  append_base64(text, bytes);
  return text += "\"}";
}

std::string OpenFiles::write(Json& params, const void*) {
  auto file = find(params);
  auto data = take_text(params, "data");
  if (!data || !decode_base64(*data)) throw type_error("\"data\" must be base64");
  ssize_t count;
  do {
    count = ::write(file->fd.get(), data->data(), data->size());
  } while (count < 0 && errno == EINTR);
  if (count < 0) throw_errno("write");
  return json_text({{"bytesWritten", count}});
}

std::string OpenFiles::seek(Json& params, const void*) {
  auto file = find(params);
  // 0, 1 and 2 are SEEK_SET, SEEK_CUR and SEEK_END.
  auto whence = static_cast<int>(integer_of(params, "whence", 0, 2));
  off_t position = ::lseek(file->fd.get(), offset_of(params), whence);
  if (position < 0) throw_errno("seek");
  return json_text({{"position", position}});
}

std::string OpenFiles::stat(Json& params, const void*) {
  return json_text(file_information(find(params)->fd.get(), "", true, "stat"));
}

std::string OpenFiles::sync(Json& params, const void*) {
  return done(::fsync(find(params)->fd.get()), "fsync");
}

std::string OpenFiles::sync_data(Json& params, const void*) {
  return done(::fdatasync(find(params)->fd.get()), "fdatasync");
}

std::string OpenFiles::truncate(Json& params, const void*) {
  auto file = find(params);
  int64_t length = optional_integer(params, "len", 0, kMaxInteger).value_or(0);
  return done(::ftruncate(file->fd.get(), length), "truncate");
}

std::string OpenFiles::change_times(Json& params, const void*) {
  auto file = find(params);
  timespec times[2];
  read_times(params, times);
  return done(::futimens(file->fd.get(), times), "futime");
}

}  // namespace hutch::agent::rpc
