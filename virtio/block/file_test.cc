#include "virtio/block/file.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "base/sys.h"

namespace hutch::virtio::block {
namespace {

constexpr uint64_t kSize = 1 << 20;

// A file without a name, in a file system that has holes.
Fd make_file(uint64_t size) {
  Fd file(::memfd_create("disk", MFD_CLOEXEC));
  REQUIRE(file.is_open());
  REQUIRE(::ftruncate(file.get(), static_cast<off_t>(size)) == 0);
  return file;
}

iovec part(std::vector<std::byte>& bytes) {
  return {bytes.data(), bytes.size()};
}

struct Disk {
  explicit Disk(uint64_t size = kSize) {
    Fd opened = make_file(size);
    file = opened.duplicate().value();
    backend = FileBackend::create(std::move(opened)).value();
  }
  Result<void> write(uint64_t offset, std::vector<std::byte> bytes) {
    iovec buffer = part(bytes);
    return backend->write(std::span(&buffer, 1), offset);
  }
  std::vector<std::byte> read(uint64_t offset, size_t size) {
    std::vector<std::byte> bytes(size, std::byte{0xee});
    iovec buffer = part(bytes);
    REQUIRE(backend->read(std::span(&buffer, 1), offset));
    return bytes;
  }
  uint64_t blocks() const {
    struct stat status {};
    REQUIRE(::fstat(file.get(), &status) == 0);
    return static_cast<uint64_t>(status.st_blocks);
  }

  Fd file;  // a second descriptor of it
  std::unique_ptr<FileBackend> backend;
};

TEST_CASE("a disk is as large as its file, in whole sectors") {
  CHECK(Disk(1000).backend->size() == 512);
  CHECK(Disk(512).backend->size() == 512);
  CHECK(!FileBackend::create(make_file(511)));
  CHECK(!FileBackend::create(socket_pair(SOCK_STREAM).value().first));
}

TEST_CASE("reads and writes take any number of buffers") {
  Disk disk;
  std::vector<std::byte> bytes(3000 * 100);
  for (size_t i = 0; i < bytes.size(); i++) bytes[i] = static_cast<std::byte>(i % 251);
  std::vector<iovec> buffers;
  for (size_t i = 0; i < 3000; i++) buffers.push_back({bytes.data() + i * 100, 100});
  REQUIRE(disk.backend->write(buffers, 512));
  CHECK(disk.read(512, bytes.size()) == bytes);
  std::vector<std::byte> copy = bytes;
  std::fill(bytes.begin(), bytes.end(), std::byte{0});
  REQUIRE(disk.backend->read(buffers, 512));
  CHECK(bytes == copy);
  REQUIRE(disk.backend->flush());
}

TEST_CASE("a file that has shrunk is an error, not zeroes and not a hang") {
  Disk disk;
  REQUIRE(::ftruncate(disk.file.get(), 1000) == 0);
  std::vector<std::byte> bytes(1024);
  iovec buffer = part(bytes);
  Result<void> result = disk.backend->read(std::span(&buffer, 1), 0);
  REQUIRE(!result);
  CHECK(result.error().message == "reading a disk: its file ends at byte 1000");
}

TEST_CASE("a full or limited file system is an error with its reason") {
  Disk disk;
  rlimit old{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &old) == 0);
  rlimit limited{.rlim_cur = 4096, .rlim_max = old.rlim_max};
  auto previous = ::signal(SIGXFSZ, SIG_IGN);
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &limited) == 0);
  Result<void> half = disk.write(3584, std::vector<std::byte>(1024, std::byte{'x'}));
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &old) == 0);
  ::signal(SIGXFSZ, previous);
  REQUIRE(!half);
  CHECK(half.error().number == EFBIG);
  // The half that had room is there: a short write went on until the error.
  CHECK(disk.read(3584, 512) == std::vector<std::byte>(512, std::byte{'x'}));
}

TEST_CASE("discard gives space back; zeroed bytes read as zero, with and without a hole") {
  Disk disk;
  REQUIRE(disk.write(0, std::vector<std::byte>(kSize, std::byte{'x'})));
  uint64_t full = disk.blocks();
  REQUIRE(disk.backend->discard(0, 256 * 1024));
  CHECK(disk.blocks() < full);
  CHECK(disk.backend->size() == kSize);
  REQUIRE(disk.backend->write_zeroes(512 * 1024, 4096, true));
  REQUIRE(disk.backend->write_zeroes(600 * 1024 + 512, 200 * 1024, false));
  CHECK(disk.read(512 * 1024, 4096) == std::vector<std::byte>(4096));
  CHECK(disk.read(600 * 1024 + 512, 200 * 1024) == std::vector<std::byte>(200 * 1024));
  CHECK(disk.read(600 * 1024, 512) == std::vector<std::byte>(512, std::byte{'x'}));
  CHECK(disk.read(800 * 1024 + 512, 512) == std::vector<std::byte>(512, std::byte{'x'}));
}

TEST_CASE("a disk that is only readable refuses writes by the kernel's own rule") {
  Fd file = make_file(kSize);
  Fd read_only = open_file("/proc/self/fd/" + std::to_string(file.get()), O_RDONLY).value();
  std::unique_ptr<FileBackend> backend = FileBackend::create(std::move(read_only)).value();
  std::vector<std::byte> bytes(512);
  iovec buffer = part(bytes);
  CHECK(!backend->write(std::span(&buffer, 1), 0));
  CHECK(!backend->discard(0, 512));
  CHECK(!backend->write_zeroes(0, 512, true));
  CHECK(backend->read(std::span(&buffer, 1), 0).has_value());
}

}  // namespace
}  // namespace hutch::virtio::block
