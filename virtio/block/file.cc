#include "virtio/block/file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <vector>

#include "base/sys.h"
#include "virtio/spec.h"

namespace hutch::virtio::block {
namespace {

// Linux takes this many buffers in one system call.
constexpr size_t kMaxBuffers = 1024;
constexpr size_t kZeroesAtOnce = 64 * 1024;

// Calls `transfer(buffers, count, offset)` until all buffers are done.
template <typename Transfer>
Result<void> transfer_all(std::span<const iovec> buffers, uint64_t offset, const char* what,
                          Transfer transfer) {
  std::vector<iovec> left(buffers.begin(), buffers.end());
  for (size_t first = 0; first < left.size();) {
    int count = static_cast<int>(std::min(left.size() - first, kMaxBuffers));
    ssize_t moved = transfer(&left[first], count, static_cast<off_t>(offset));
    if (moved < 0 && errno == EINTR) continue;
    if (moved < 0) return fail_errno(errno, fmt::format("{} a disk at byte {}", what, offset));
    if (moved == 0)
      return fail(fmt::format("{} a disk: its file ends at byte {}", what, offset),
                  "do not shrink the file of a disk in use");
    offset += static_cast<uint64_t>(moved);
    for (auto rest = static_cast<size_t>(moved); rest > 0;) {
      iovec& buffer = left[first];
      size_t part = std::min(rest, buffer.iov_len);
      buffer.iov_base = static_cast<std::byte*>(buffer.iov_base) + part;
      buffer.iov_len -= part;
      rest -= part;
      if (buffer.iov_len == 0) first++;
    }
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<FileBackend>> FileBackend::create(Fd file) {
  uint64_t size = TRY_CONTEXT("a disk", file_size(file.get()));
  size -= size % spec::kSectorSize;
  if (size == 0)
    return fail("the file of a disk is empty", "give it a size: truncate --size=10G FILE");
  return std::unique_ptr<FileBackend>(new FileBackend(std::move(file), size));
}

Result<void> FileBackend::read(std::span<const iovec> buffers, uint64_t offset) {
  return transfer_all(buffers, offset, "reading", [this](iovec* vectors, int count, off_t at) {
    return ::preadv(file_.get(), vectors, count, at);
  });
}

Result<void> FileBackend::write(std::span<const iovec> buffers, uint64_t offset) {
  return transfer_all(buffers, offset, "writing", [this](iovec* vectors, int count, off_t at) {
    return ::pwritev(file_.get(), vectors, count, at);
  });
}

Result<void> FileBackend::flush() {
  if (::fdatasync(file_.get()) < 0) return fail_errno(errno, "flushing a disk");
  return {};
}

// Returns whether the file system can do this.
Result<bool> FileBackend::allocate(int mode, uint64_t offset, uint64_t size) {
  int status;
  do {
    status = ::fallocate(file_.get(), mode | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                         static_cast<off_t>(size));
  } while (status < 0 && errno == EINTR);
  if (status == 0) return true;
  if (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL) return false;
  return fail_errno(errno, fmt::format("clearing a disk at byte {}", offset));
}

Result<void> FileBackend::discard(uint64_t offset, uint64_t size) {
  TRY(allocate(FALLOC_FL_PUNCH_HOLE, offset, size));
  return {};
}

Result<void> FileBackend::write_zeroes(uint64_t offset, uint64_t size, bool may_unmap) {
  if (TRY(allocate(may_unmap ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE, offset, size)))
    return {};
  static constexpr std::array<std::byte, kZeroesAtOnce> kZeroes{};
  while (size > 0) {
    size_t part = std::min<uint64_t>(size, kZeroes.size());
    iovec buffer{const_cast<std::byte*>(kZeroes.data()), part};
    TRY(write(std::span(&buffer, 1), offset));
    offset += part;
    size -= part;
  }
  return {};
}

}  // namespace hutch::virtio::block
