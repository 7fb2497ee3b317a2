// Disks of layers, saved again and again, as a launcher keeps their files.
#include "vmm/layered_disk.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/sys.h"
#include "vmm/saved_machine.h"

namespace hutch::vmm {
namespace {

using protocol::vmm::Disk;
using protocol::vmm::DiskLayers;
using protocol::vmm::FreezeDisk;
using virtio::block::Backend;
using virtio::block::LayeredBackend;

constexpr uint64_t kSize = 8 << 20;
constexpr size_t kMany = 32;

Fd empty() {
  return Fd(::memfd_create("layer", MFD_CLOEXEC));
}

Fd view(const Fd& file) {
  return open_file("/proc/self/fd/" + std::to_string(file.get()), O_RDONLY).value();
}

void write(Backend& disk, uint64_t at, char value) {
  std::vector<std::byte> bytes(4096, static_cast<std::byte>(value));
  iovec buffer{bytes.data(), bytes.size()};
  REQUIRE(disk.write(std::span(&buffer, 1), at));
}

std::vector<std::byte> read(Backend& disk) {
  std::vector<std::byte> bytes(kSize);
  iovec buffer{bytes.data(), bytes.size()};
  REQUIRE(disk.read(std::span(&buffer, 1), 0));
  return bytes;
}

// The files of a disk, on the launcher's side.
struct Files {
  Fd base = empty();
  std::vector<Fd> frozen;
  Fd top = empty();

  Files() { REQUIRE(::ftruncate(base.get(), kSize) == 0); }
  std::unique_ptr<LayeredBackend> open(Fd delta) const {
    Disk disk{.file = view(base), .read_only = false, .id = "", .delta = {}, .layers = {}};
    for (const Fd& layer : frozen) disk.layers.push_back(view(layer));
    disk.delta = std::move(delta);
    return open_layered(std::move(disk)).value();
  }
  Result<void> freeze(LayeredBackend& disk, Fd fresh) {
    FreezeDisk files{
        .disk = 0, .frozen = view(top), .fresh = fresh ? fresh.duplicate().value() : Fd()};
    DiskLayers layers;
    Result<void> done = freeze_disk(disk, files, new_layer_id().value(), kMany, layers);
    frozen.erase(frozen.begin() + layers.kept, frozen.end());
    if (layers.is_frozen) frozen.push_back(std::exchange(top, std::move(fresh)));
    return done;
  }
};

TEST_CASE("a disk is saved 70 times in a row, and forks go on with what it had each time") {
  Files files;
  auto disk = files.open(files.top.duplicate().value());
  for (uint64_t i = 0; i < 70; i++) {
    write(*disk, i * 8192, static_cast<char>(i + 1));
    REQUIRE(files.freeze(*disk, empty()));
    REQUIRE(files.frozen.size() <= kMany);
    auto fork = files.open(empty());
    REQUIRE(check_disk(*fork, save_disk(*disk)));
    REQUIRE(read(*fork) == read(*disk));
    REQUIRE(read(*fork)[i * 8192] == static_cast<std::byte>(i + 1));
  }
  CHECK(read(*disk)[0] == std::byte{1});
}

TEST_CASE("nothing written, nothing frozen") {
  Files files;
  auto disk = files.open(files.top.duplicate().value());
  for (int i = 0; i < 3; i++) {
    REQUIRE(files.freeze(*disk, empty()));
    CHECK(files.frozen.empty());
  }
  write(*disk, 0, 'x');
  for (int i = 0; i < 3; i++) {
    REQUIRE(files.freeze(*disk, empty()));
    CHECK(files.frozen.size() == 1);
  }
  REQUIRE(check_disk(*files.open(empty()), save_disk(*disk)));
}

TEST_CASE("what a disk goes on with is told also when its layer cannot be frozen") {
  Files files;
  auto disk = files.open(files.top.duplicate().value());
  for (uint64_t i = 0; i < kMany; i++) {
    write(*disk, i * 8192, static_cast<char>(i + 1));
    REQUIRE(files.freeze(*disk, empty()));
  }
  write(*disk, kSize - 4096, 'e');
  CHECK(files.frozen.size() == kMany);
  CHECK(!files.freeze(*disk, Fd()));
  CHECK(files.frozen.size() < kMany / 2);
  CHECK(files.frozen.size() == disk->frozen().size());
  REQUIRE(files.freeze(*disk, empty()));
  auto fork = files.open(empty());
  REQUIRE(check_disk(*fork, save_disk(*disk)));
  CHECK(read(*fork) == read(*disk));
}

}  // namespace
}  // namespace hutch::vmm
