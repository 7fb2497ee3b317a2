// Fuzzes a disk of layers: what hostile files of deltas hold, and requests over them. Checked: no
// file is asked for what lies outside it; layers are refused, or the disk reads as the newest layer
// that says that it has a cluster, and as what was written since.
#include <algorithm>
#include <array>
#include <memory>
#include <vector>

#include "tests/fuzz/fuzz_input.h"
#include "virtio/block/layered.h"
#include "virtio/spec.h"

namespace hutch::fuzz {
namespace {

using namespace virtio::block;

constexpr uint64_t kSector = virtio::spec::kSectorSize;
constexpr uint64_t kCluster = Delta::kClusterSize;
constexpr uint64_t kClusters = 11;
constexpr uint64_t kDisk = (kClusters - 1) * kCluster + 3 * kSector;

using Bytes = std::vector<uint8_t>;

class MemoryFile final : public Backend {
 public:
  explicit MemoryFile(std::shared_ptr<Bytes> bytes) : bytes_(std::move(bytes)) {}
  uint64_t size() const override { return bytes_->size() / kSector * kSector; }
  Result<void> read(std::span<const iovec> buffers, uint64_t offset) override {
    return move(buffers, offset, [](uint8_t* here, iovec buffer) {
      std::memcpy(buffer.iov_base, here, buffer.iov_len);
    });
  }
  Result<void> write(std::span<const iovec> buffers, uint64_t offset) override {
    return move(buffers, offset, [](uint8_t* here, iovec buffer) {
      std::memcpy(here, buffer.iov_base, buffer.iov_len);
    });
  }
  Result<void> flush() override { return {}; }
  Result<void> discard(uint64_t offset, uint64_t length) override {
    return write_zeroes(offset, length, true);
  }
  Result<void> write_zeroes(uint64_t offset, uint64_t length, bool) override {
    FUZZ_CHECK(length > 0 && offset <= size() && length <= size() - offset);
    std::fill_n(bytes_->begin() + static_cast<ptrdiff_t>(offset), length, uint8_t{0});
    return {};
  }

 private:
  template <typename Each>
  Result<void> move(std::span<const iovec> buffers, uint64_t offset, Each each) {
    FUZZ_CHECK(offset % kSector == 0);
    for (const iovec& buffer : buffers) {
      FUZZ_CHECK(offset <= size() && buffer.iov_len <= size() - offset);
      each(bytes_->data() + offset, buffer);
      offset += buffer.iov_len;
    }
    FUZZ_CHECK(offset % kSector == 0);
    return {};
  }
  std::shared_ptr<Bytes> bytes_;
};

std::unique_ptr<Backend> view(const std::shared_ptr<Bytes>& bytes) {
  return std::make_unique<MemoryFile>(bytes);
}

LayerId id_of(uint8_t number) {
  LayerId id{};
  id[0] = std::byte{number};
  return id;
}

std::shared_ptr<Bytes> new_file() {
  return std::make_shared<Bytes>(Delta::file_size(kDisk));
}

// The file of a delta with the bits and the data that the input says, mostly right in the rest.
std::shared_ptr<Bytes> hostile_file(FuzzInput& input, uint8_t number, const LayerId& below) {
  std::shared_ptr<Bytes> file = new_file();
  uint64_t size = kDisk;
  if (input.rarely()) size = input.take<uint64_t>();
  if (auto made =
          Delta::create(view(file), {.disk_size = size, .id = id_of(number), .below = below});
      !made)
    FUZZ_CHECK(size != kDisk);
  const auto bits = input.take<uint16_t>();
  (*file)[kCluster] = static_cast<uint8_t>(bits);
  (*file)[kCluster + 1] = static_cast<uint8_t>(bits >> 8 & (input.rarely() ? 0xff : 7));
  if (input.rarely()) (*file)[kCluster + input.below(kCluster)] = input.byte();
  std::fill(file->begin() + 2 * kCluster, file->end(), input.byte());
  for (uint32_t changes = input.rarely() ? input.below(9) : 0; changes > 0; changes--)
    (*file)[input.below(80)] = input.byte();
  if (input.rarely()) file->resize(input.below(static_cast<uint32_t>(file->size())));
  return file;
}

struct Opened {
  std::unique_ptr<LayeredBackend> disk;
  std::vector<std::shared_ptr<Bytes>> files;  // of the deltas, from below
};

Result<Opened> open(FuzzInput& input, const std::shared_ptr<Bytes>& base) {
  Opened opened;
  std::vector<Delta> layers;
  LayerId below = LayeredBackend::base_id(*view(base)).value();
  for (uint32_t left = 1 + input.below(4); left > 0; left--) {
    const auto number = static_cast<uint8_t>(layers.size() + 1);
    opened.files.push_back(hostile_file(input, number, below));
    layers.push_back(TRY(Delta::open(view(opened.files.back()))));
    below = id_of(number);
  }
  Delta top = std::move(layers.back());
  layers.pop_back();
  opened.disk = TRY(LayeredBackend::create(view(base), std::move(layers), std::move(top)));
  return opened;
}

// What the disk has to read as.
Bytes model(const Opened& opened, const Bytes& base) {
  Bytes bytes = base;
  for (const auto& file : opened.files)
    for (uint64_t cluster = 0; cluster < kClusters; cluster++) {
      if (((*file)[kCluster + cluster / 8] >> cluster % 8 & 1) == 0) continue;
      const uint64_t at = cluster * kCluster;
      std::copy_n(file->begin() + static_cast<ptrdiff_t>(2 * kCluster + at),
                  std::min(kCluster, kDisk - at), bytes.begin() + static_cast<ptrdiff_t>(at));
    }
  return bytes;
}

void check(LayeredBackend& disk, const Bytes& expected) {
  Bytes bytes(kDisk, 0xee);
  iovec buffers[] = {{bytes.data(), 700}, {bytes.data() + 700, bytes.size() - 700}};
  FUZZ_CHECK(disk.read(buffers, 0));
  FUZZ_CHECK(bytes == expected);
}

void request(Opened& opened, FuzzInput& input, Bytes& expected) {
  const uint64_t at = input.below(kDisk / kSector) * kSector;
  const uint64_t size = std::min<uint64_t>((1 + input.below(40)) * kSector, kDisk - at);
  const auto begin = expected.begin() + static_cast<ptrdiff_t>(at);
  switch (input.below(8)) {
    case 0:
      FUZZ_CHECK(opened.disk->flush());
      return;
    case 1:
      FUZZ_CHECK(opened.disk->write_zeroes(at, size, input.flip()));
      std::fill_n(begin, size, uint8_t{0});
      return;
    case 2: {
      // Each byte as it was, or zero.
      FUZZ_CHECK(opened.disk->discard(at, size));
      Bytes now(size);
      iovec buffer{now.data(), now.size()};
      FUZZ_CHECK(opened.disk->read(std::span(&buffer, 1), at));
      for (size_t i = 0; i < size; i++)
        FUZZ_CHECK(now[i] == 0 || now[i] == begin[static_cast<ptrdiff_t>(i)]);
      std::copy(now.begin(), now.end(), begin);
      return;
    }
    case 3: {
      auto fresh = new_file();
      auto made =
          Delta::create(view(fresh), {.disk_size = kDisk,
                                      .id = id_of(static_cast<uint8_t>(100 + opened.files.size())),
                                      .below = opened.disk->top_id()});
      FUZZ_CHECK(opened.disk->freeze(Delta::open(view(opened.files.back())).value(),
                                     *std::move(made),
                                     input.flip() ? Durability::kFlushed : Durability::kCached));
      opened.files.push_back(fresh);
      return;
    }
    case 4:
      FUZZ_CHECK(opened.disk->shorten(1 + input.below(6),
                                      input.flip() ? Durability::kFlushed : Durability::kCached));
      opened.files.erase(
          opened.files.begin() + static_cast<ptrdiff_t>(opened.disk->frozen().size()),
          opened.files.end() - 1);
      return;
    default: {
      Bytes bytes(size, input.byte());
      iovec buffer{bytes.data(), bytes.size()};
      FUZZ_CHECK(opened.disk->write(std::span(&buffer, 1), at));
      std::copy(bytes.begin(), bytes.end(), begin);
    }
  }
}

}  // namespace
}  // namespace hutch::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace hutch::fuzz;
  FuzzInput input(data, size);
  auto base = std::make_shared<Bytes>(kDisk, uint8_t{'b'});
  auto opened = open(input, base);
  if (!opened) return 0;
  Bytes expected = model(*opened, *base);
  check(*opened->disk, expected);
  for (int step = 0; step < 24 && !input.is_empty(); step++) {
    request(*opened, input, expected);
    check(*opened->disk, expected);
  }
  // What was flushed is what is read when all is opened again.
  FUZZ_CHECK(opened->disk->flush());
  FUZZ_CHECK(model(*opened, *base) == expected);
  FUZZ_CHECK(*base == Bytes(kDisk, uint8_t{'b'}));
  return 0;
}
