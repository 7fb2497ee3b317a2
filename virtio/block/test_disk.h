// For tests: a disk of layers whose files are in memory, and fail when they are told to.
#pragma once

#include <doctest/doctest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <vector>

#include "base/fd.h"
#include "virtio/block/file.h"
#include "virtio/block/layered.h"

namespace hutch::virtio::block::test {
constexpr uint64_t kCluster = Delta::kClusterSize;
// Two blocks of the bitmap, and half a cluster at the end.
constexpr uint64_t kSize = Delta::kClustersPerBlock * kCluster + 40 * kCluster + 2048;

inline Fd make_file(uint64_t size) {
  Fd file(::memfd_create("layer", MFD_CLOEXEC));
  REQUIRE(::ftruncate(file.get(), static_cast<off_t>(size)) == 0);
  return file;
}

inline std::unique_ptr<Backend> backend_of(const Fd& file) {
  return FileBackend::create(file.duplicate().value()).value();
}

// Passes everything on, and fails when it is told to.
class Breaking final : public Backend {
 public:
  struct Faults {
    bool flush = false, write = false;
    int flushes = 0;
    int writes_left = 1'000'000'000;  // then the disk is full
    uint64_t written = 0;             // bytes
  };
  Breaking(std::unique_ptr<Backend> file, Faults& faults)
      : file_(std::move(file)), faults_(faults) {}
  uint64_t size() const override { return file_->size(); }
  Result<void> read(std::span<const iovec> buffers, uint64_t offset) override {
    return file_->read(buffers, offset);
  }
  Result<void> write(std::span<const iovec> buffers, uint64_t offset) override {
    if (faults_.write || faults_.writes_left-- <= 0) return fail_errno(ENOSPC, "the test's disk");
    for (const iovec& buffer : buffers) faults_.written += buffer.iov_len;
    return file_->write(buffers, offset);
  }
  Result<void> flush() override {
    faults_.flushes++;
    if (faults_.flush) return fail_errno(EIO, "the test's disk");
    return file_->flush();
  }
  Result<void> discard(uint64_t offset, uint64_t size) override {
    return file_->discard(offset, size);
  }
  Result<void> write_zeroes(uint64_t offset, uint64_t size, bool may_unmap) override {
    return file_->write_zeroes(offset, size, may_unmap);
  }

 private:
  std::unique_ptr<Backend> file_;
  Faults& faults_;
};

struct Disk {
  Disk() : base(make_file(kSize)) {
    for (uint64_t at : {uint64_t{0}, 3 * kCluster, kSize - 2 * kCluster}) {
      std::vector<std::byte> bytes(std::min(2 * kCluster, kSize - at), std::byte{'b'});
      REQUIRE(::pwrite(base.get(), bytes.data(), bytes.size(), static_cast<off_t>(at)) > 0);
    }
    tops.push_back(make_file(Delta::file_size(kSize)));
    LayerId below = LayeredBackend::base_id(*backend_of(base)).value();
    Delta top = make(tops.back(), below);
    layered = LayeredBackend::create(backend_of(base), {}, std::move(top)).value();
  }
  LayerId next_id() {
    LayerId id{};
    id[0] = static_cast<std::byte>(++ids);
    id[1] = static_cast<std::byte>(ids >> 8);
    return id;
  }
  Delta make(const Fd& file, const LayerId& below) {
    return Delta::create(std::make_unique<Breaking>(backend_of(file), faults),
                         {.disk_size = kSize, .id = next_id(), .below = below})
        .value();
  }
  Delta open(size_t index) { return Delta::open(backend_of(tops[index])).value(); }
  Result<Delta> freeze(Durability durability = Durability::kCached) {
    tops.push_back(make_file(Delta::file_size(kSize)));
    return layered->freeze(open(tops.size() - 2), make(tops.back(), layered->top_id()), durability);
  }
  // Files of layers that the disk does not have any more are forgotten.
  Result<void> shorten(size_t many, Durability durability = Durability::kCached) {
    Result<void> done = layered->shorten(many, durability);
    tops.erase(tops.begin() + static_cast<ptrdiff_t>(layered->frozen().size()), tops.end() - 1);
    return done;
  }
  // Another disk over the frozen layers of this one.
  std::unique_ptr<LayeredBackend> fork() {
    std::vector<Delta> frozen;
    for (size_t i = 0; i + 1 < tops.size(); i++) frozen.push_back(open(i));
    forks.push_back(make_file(Delta::file_size(kSize)));
    return LayeredBackend::create(backend_of(base), std::move(frozen),
                                  make(forks.back(), layered->frozen().back().id))
        .value();
  }
  // All layers opened anew.
  Result<std::unique_ptr<LayeredBackend>> reopen() {
    std::vector<Delta> frozen;
    for (size_t i = 0; i + 1 < tops.size(); i++) frozen.push_back(open(i));
    return LayeredBackend::create(backend_of(base), std::move(frozen), open(tops.size() - 1));
  }

  Breaking::Faults faults;
  Fd base;
  std::vector<Fd> tops, forks;
  uint32_t ids = 0;
  std::unique_ptr<LayeredBackend> layered;
};

inline std::vector<std::byte> read(Backend& backend, uint64_t offset, size_t size) {
  std::vector<std::byte> bytes(size, std::byte{0xee});
  iovec buffer{bytes.data(), bytes.size()};
  REQUIRE(backend.read(std::span(&buffer, 1), offset));
  return bytes;
}

inline Result<void> write(Backend& backend, uint64_t offset, size_t size, char value) {
  std::vector<std::byte> bytes(size, static_cast<std::byte>(value));
  iovec buffer{bytes.data(), bytes.size()};
  return backend.write(std::span(&buffer, 1), offset);
}

inline std::vector<std::byte> filled(size_t size, char value) {
  return std::vector<std::byte>(size, static_cast<std::byte>(value));
}

inline uint64_t space(const Fd& file) {
  struct stat status {};
  REQUIRE(::fstat(file.get(), &status) == 0);
  return static_cast<uint64_t>(status.st_blocks) * 512;
}

}  // namespace hutch::virtio::block::test
