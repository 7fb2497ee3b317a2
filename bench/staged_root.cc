#include "bench/staged_root.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <sstream>

#include "base/sys.h"
#include "bench/child.h"
#include "bench/subject.h"

namespace hutch::bench {
namespace {

namespace files = std::filesystem;

constexpr size_t kPiece = 1 << 20;
constexpr const char* kFolder = "/run/hutch-bench";
constexpr const char* kShared[] = {"/dev", "/proc", "/sys", "/run"};

uint64_t seek(const Fd& file, uint64_t offset, int whence, uint64_t otherwise) {
  off_t found = ::lseek(file.get(), static_cast<off_t>(offset), whence);
  return found < 0 ? otherwise : static_cast<uint64_t>(found);
}

[[noreturn]] void fail_root(const std::string& what) {
  throw BenchFailure(fmt::format("a root in memory: {}: {}", what, std::strerror(errno)));
}

}  // namespace

StagedRoot::StagedRoot() : folder_(kFolder) {
  if (::unshare(CLONE_NEWNS) < 0) fail_root("a namespace of mounts");
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0) fail_root("mounts");
  files::create_directories(folder_);
  if (::mount("tmpfs", kFolder, "tmpfs", 0, "mode=755") < 0) fail_root(folder_);
  // As /lib and /bin lead to /usr.
  for (const files::directory_entry& entry : files::directory_iterator("/"))
    if (entry.is_symlink())
      files::create_symlink(files::read_symlink(entry.path()), folder_ + entry.path().string());
  for (const char* folder : {"/usr/bin", "/usr/sbin", "/usr/lib", "/usr/lib64", "/tmp"})
    files::create_directories(folder_ + folder);
}

void StagedRoot::add(const std::string& path, const std::vector<uint64_t>& extents) {
  std::string copy = folder_ + path;
  if (files::exists(copy)) return;
  files::create_directories(files::path(copy).parent_path());
  copy_sparse(path, copy, extents);
  struct stat status {};
  if (::stat(path.c_str(), &status) == 0) ::chmod(copy.c_str(), status.st_mode & 0755);
}

void StagedRoot::add_parts(const artefacts::Parts& parts, const std::vector<uint64_t>& extents) {
  for (const std::string& path : {parts.kernel, parts.initramfs, parts.vmm, parts.image}) add(path);
  add(parts.layer, extents);
}

std::string StagedRoot::add_program(const std::string& program) {
  Child shell = start_child(
      {"sh", "-c", "p=$(command -v \"$0\") && echo \"$p\" && ldd \"$p\" 2>/dev/null", program});
  std::istringstream words(read_to_end(shell.output));
  wait_for(shell);
  std::string path;
  words >> path;
  if (!path.starts_with('/'))
    throw BenchFailure(fmt::format("{} is not in PATH; install it, or give its path", program));
  add(path);
  // Paths of libraries, and of the dynamic linker, among `=>` and addresses.
  for (std::string word; words >> word;)
    if (word.starts_with('/')) add(word);
  return path;
}

void StagedRoot::enter() {
  for (const char* shared : kShared) {
    files::create_directories(folder_ + shared);
    if (::mount(shared, (folder_ + shared).c_str(), nullptr, MS_BIND | MS_REC, nullptr) < 0)
      fail_root(shared);
  }
  if (::chroot(kFolder) < 0 || ::chdir("/") < 0) fail_root("entering it");
}

void copy_sparse(const std::string& from, const std::string& to,
                 const std::vector<uint64_t>& extents) {
  auto failed = [&](const std::string& path) {
    throw BenchFailure(fmt::format("copying to {}: {}: {}", to, path, std::strerror(errno)));
  };
  Fd source(::open(from.c_str(), O_RDONLY | O_CLOEXEC));
  if (!source) failed(from);
  Fd target(::open(to.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!target) failed(to);
  Result<uint64_t> size = file_size(source.get());
  if (!size || ::ftruncate(target.get(), static_cast<off_t>(*size)) < 0) failed(to);
  std::vector<char> piece(kPiece);
  auto copy = [&](uint64_t offset, uint64_t end) {
    while (offset < end) {
      size_t wanted = std::min<uint64_t>(piece.size(), end - offset);
      ssize_t got = ::pread(source.get(), piece.data(), wanted, static_cast<off_t>(offset));
      if (got <= 0) failed(from);
      if (::pwrite(target.get(), piece.data(), static_cast<size_t>(got),
                   static_cast<off_t>(offset)) != got)
        failed(to);
      offset += static_cast<uint64_t>(got);
    }
  };
  for (size_t i = 0; i + 1 < extents.size(); i += 2) copy(extents[i], extents[i] + extents[i + 1]);
  if (!extents.empty()) return;
  for (uint64_t offset = 0; offset < *size;) {
    uint64_t data = seek(source, offset, SEEK_DATA, *size);
    offset = seek(source, data, SEEK_HOLE, *size);
    copy(data, offset);
  }
}

}  // namespace hutch::bench
