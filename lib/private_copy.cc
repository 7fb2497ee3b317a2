#include "lib/private_copy.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <memory>

#include "base/sys.h"

namespace hutch::lib {
namespace {

constexpr size_t kCopySize = 256 * 1024;

Result<Fd> create_unlinked(const std::string& folder) {
  constexpr const char* kRemedy = "name a folder that may be written to, with room for the disk";
  Fd file(::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (file) return file;
  // Not every file system can make a file without a name.
  if (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT && errno != EINVAL)
    return fail_errno(errno, fmt::format("making a disk file in {}", folder), kRemedy);
  std::string path = folder + "/hutch-disk-XXXXXX";
  file = Fd(::mkostemp(path.data(), O_CLOEXEC));
  if (!file) return fail_errno(errno, fmt::format("making a disk file in {}", folder), kRemedy);
  if (::unlink(path.c_str()) < 0) return fail_errno(errno, fmt::format("removing {}", path));
  return file;
}

Result<void> copy_extent(int source, int target, Extent extent) {
  auto buffer = std::make_unique<std::byte[]>(kCopySize);
  uint64_t end = extent.offset + extent.size;
  for (uint64_t offset = extent.offset; offset < end;) {
    std::span<std::byte> bytes(buffer.get(), std::min<uint64_t>(kCopySize, end - offset));
    TRY(read_exactly_at(source, bytes, offset));
    for (size_t done = 0; done < bytes.size();) {
      ssize_t count = ::pwrite(target, bytes.data() + done, bytes.size() - done,
                               static_cast<off_t>(offset + done));
      if (count < 0 && errno == EINTR) continue;
      if (count < 0)
        return fail_errno(errno, "copying a disk template", "free space in the scratch folder");
      done += static_cast<size_t>(count);
    }
    offset += bytes.size();
  }
  return {};
}

}  // namespace

Result<Fd> private_copy(int source, const std::string& folder, std::span<const Extent> extents) {
  Fd target = TRY(create_unlinked(folder));
  TRY(copy_disk(source, target.get(), extents));
  return target;
}

Result<void> copy_disk(int source, int target, std::span<const Extent> extents) {
  uint64_t size = TRY(file_size(source));
  if (::ioctl(target, FICLONE, source) == 0) return {};
  if (::ftruncate(target, static_cast<off_t>(size)) < 0)
    return fail_errno(errno, fmt::format("making a disk file of {} bytes", size));
  for (const Extent& extent : extents) {
    if (extent.offset > size || extent.size > size - extent.offset)
      return fail("a data extent lies beyond the end of the disk template");
    TRY(copy_extent(source, target, extent));
  }
  if (!extents.empty()) return {};
  for (uint64_t offset = 0; offset < size;) {
    off_t data = ::lseek(source, static_cast<off_t>(offset), SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;  // no data any more
    if (data < 0) return fail_errno(errno, "looking for data in a disk template");
    off_t hole = ::lseek(source, data, SEEK_HOLE);
    if (hole < 0) return fail_errno(errno, "looking for the end of data in a disk template");
    TRY(copy_extent(source, target,
                    {static_cast<uint64_t>(data), static_cast<uint64_t>(hole - data)}));
    offset = static_cast<uint64_t>(hole);
  }
  return {};
}

}  // namespace hutch::lib
