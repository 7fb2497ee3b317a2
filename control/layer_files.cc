#include "control/layer_files.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <memory>

#include "base/sys.h"

namespace hutch::control {
namespace {

constexpr size_t kMaxLayers = 64;
constexpr size_t kCopySize = 256 * 1024;

std::string name_of(const std::string& folder, size_t number) {
  return fmt::format("{}/layer-{}", folder, number);
}

// Holes stay holes.
Result<void> copy_sparse(int source, int target) {
  const uint64_t size = TRY(file_size(source));
  if (::ftruncate(target, static_cast<off_t>(size)) < 0)
    return fail_errno(errno, fmt::format("making a file of {} bytes", size));
  auto buffer = std::make_unique<std::byte[]>(kCopySize);
  for (uint64_t offset = 0; offset < size;) {
    const off_t data = ::lseek(source, static_cast<off_t>(offset), SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;
    if (data < 0) return fail_errno(errno, "looking for data in a disk's layer");
    const off_t hole = ::lseek(source, data, SEEK_HOLE);
    if (hole < 0) return fail_errno(errno, "looking for the end of data in a disk's layer");
    offset = static_cast<uint64_t>(data);
    if (::lseek(target, data, SEEK_SET) < 0) return fail_errno(errno, "copying a disk's layer");
    while (offset < static_cast<uint64_t>(hole)) {
      std::span<std::byte> bytes(
          buffer.get(), std::min<uint64_t>(kCopySize, static_cast<uint64_t>(hole) - offset));
      TRY(read_exactly_at(source, bytes, offset));
      TRY_CONTEXT("copying a disk's layer", write_all(target, bytes));
      offset += bytes.size();
    }
  }
  return {};
}

Result<void> keep(int layer, const std::string& path) {
  // A file that was made without a name can be given one only through this one of its descriptor.
  const std::string self = fmt::format("/proc/self/fd/{}", layer);
  if (::linkat(AT_FDCWD, self.c_str(), AT_FDCWD, path.c_str(), AT_SYMLINK_FOLLOW) == 0) {
    if (::fsync(layer) < 0) return fail_errno(errno, fmt::format("flushing {}", path));
    return {};
  }
  // Another file system, or one whose files without a name stay so.
  Fd copy = TRY(open_file(path, O_RDWR | O_CREAT | O_EXCL, 0600));
  TRY(copy_sparse(layer, copy.get()));
  if (::fsync(copy.get()) < 0) return fail_errno(errno, fmt::format("flushing {}", path));
  return {};
}

}  // namespace

Result<void> keep_layers(const std::vector<Fd>& layers, const std::string& folder) {
  for (size_t i = 0; i < layers.size(); i++) TRY(keep(layers[i].get(), name_of(folder, i)));
  return {};
}

Result<std::vector<Fd>> open_layers(const std::string& folder) {
  std::vector<Fd> layers;
  // Whoever uses them knows which they have to be.
  while (layers.size() < kMaxLayers) {
    Result<Fd> layer = open_file(name_of(folder, layers.size()), O_RDONLY);
    if (!layer && layer.error().number == ENOENT) break;
    layers.push_back(TRY(std::move(layer)));
  }
  return layers;
}

}  // namespace hutch::control
