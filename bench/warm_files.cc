#include "bench/warm_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/sys.h"
#include "bench/subject.h"

namespace hutch::bench {
namespace {

constexpr size_t kPiece = 1 << 20;
constexpr uint64_t kReadAtMost = 64 << 20;  // of an image only the beginning is needed by a boot

uint64_t seek(const Fd& file, uint64_t offset, int whence, uint64_t otherwise) {
  off_t found = ::lseek(file.get(), static_cast<off_t>(offset), whence);
  return found < 0 ? otherwise : static_cast<uint64_t>(found);
}

}  // namespace

void WarmFiles::keep(const std::vector<std::string>& paths) {
  std::vector<char> piece(kPiece);
  for (const std::string& path : paths) {
    struct stat status {};
    if (files_.contains(path) || ::stat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode))
      continue;
    Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file) continue;
    for (uint64_t done = 0; done < kReadAtMost;) {
      ssize_t got = ::read(file.get(), piece.data(), piece.size());
      if (got <= 0) break;
      done += static_cast<uint64_t>(got);
    }
    files_.emplace(path, std::move(file));
  }
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
