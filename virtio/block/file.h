// FileBackend: a disk in a regular file or block device, through the page cache of the host.
#pragma once

#include <memory>

#include "base/fd.h"
#include "virtio/block/backend.h"

namespace hutch::virtio::block {

class FileBackend final : public Backend {
 public:
  // Takes an open file; its size now is the disk's, rounded down to whole sectors. Errors: not a
  // file or block device, or smaller than a sector.
  static Result<std::unique_ptr<FileBackend>> create(Fd file);

  // The same of a file that is known to have `size` bytes, which it need not say itself.
  static std::unique_ptr<FileBackend> of_size(Fd file, uint64_t size) {
    return std::unique_ptr<FileBackend>(new FileBackend(std::move(file), size));
  }

  uint64_t size() const override { return size_; }
  Result<void> read(std::span<const iovec> buffers, uint64_t offset) override;
  Result<void> write(std::span<const iovec> buffers, uint64_t offset) override;
  // fdatasync().
  Result<void> flush() override;
  // A hole, where the file system has those; nothing elsewhere.
  Result<void> discard(uint64_t offset, uint64_t size) override;
  // A hole or a zeroed range, where the file system has those; written zeroes elsewhere.
  Result<void> write_zeroes(uint64_t offset, uint64_t size, bool may_unmap) override;

 private:
  FileBackend(Fd file, uint64_t size) : file_(std::move(file)), size_(size) {}
  Result<bool> allocate(int mode, uint64_t offset, uint64_t size);

  Fd file_;
  uint64_t size_;
};

}  // namespace hutch::virtio::block
