// Fuzzes the block device: requests that are mostly right against a model of the disk. Checked:
// the backend is only asked for what lies inside it; statuses exist; reads give what was written.
#include <memory>

#include "base/loop.h"
#include "tests/fuzz/fuzz_ring.h"
#include "virtio/block/block.h"

namespace hutch::fuzz {
namespace {

using namespace virtio::spec;

constexpr uint64_t kSectors = 32;
constexpr uint64_t kDiskSize = kSectors * kSectorSize;

class ModelBackend final : public virtio::block::Backend {
 public:
  uint64_t size() const override { return kDiskSize; }
  Result<void> read(std::span<const iovec> buffers, uint64_t offset) override {
    TRY(begin());
    for (const iovec& buffer : buffers) {
      FUZZ_CHECK(offset <= kDiskSize && buffer.iov_len <= kDiskSize - offset);
      std::memcpy(buffer.iov_base, bytes.data() + offset, buffer.iov_len);
      offset += buffer.iov_len;
    }
    return {};
  }
  Result<void> write(std::span<const iovec> buffers, uint64_t offset) override {
    TRY(begin());
    for (const iovec& buffer : buffers) {
      FUZZ_CHECK(!read_only);
      FUZZ_CHECK(offset <= kDiskSize && buffer.iov_len <= kDiskSize - offset);
      std::memcpy(bytes.data() + offset, buffer.iov_base, buffer.iov_len);
      offset += buffer.iov_len;
    }
    return {};
  }
  Result<void> flush() override { return begin(); }
  Result<void> discard(uint64_t offset, uint64_t size) override {
    check(offset, size);
    return begin();
  }
  Result<void> write_zeroes(uint64_t offset, uint64_t size, bool) override {
    check(offset, size);
    TRY(begin());
    std::memset(bytes.data() + offset, 0, size);
    return {};
  }

  std::array<uint8_t, kDiskSize> bytes{};
  bool read_only = false;
  uint32_t calls_until_failure = 0;  // 0: none fails

 private:
  Result<void> begin() {
    if (calls_until_failure > 0 && --calls_until_failure == 0) return fail("the model's disk");
    return {};
  }
  void check(uint64_t offset, uint64_t size) const {
    FUZZ_CHECK(!read_only && size > 0 && offset % kSectorSize == 0 && size % kSectorSize == 0);
    FUZZ_CHECK(offset <= kDiskSize && size <= kDiskSize - offset);
  }
};

struct Machine {
  explicit Machine(bool read_only) {
    auto backend = std::make_unique<ModelBackend>();
    disk = backend.get();
    disk->read_only = read_only;
    device = std::make_unique<virtio::Block>(
        *loop, std::move(backend), virtio::BlockOptions{.read_only = read_only, .id = "fuzz"});
    queues = std::make_unique<FuzzQueues>(*device, std::span(&ring, 1));
  }
  std::unique_ptr<Loop> loop = Loop::create().value();
  ModelBackend* disk = nullptr;
  std::unique_ptr<virtio::Block> device;
  FuzzRing ring{GuestAddress(0x10000), 64};
  std::unique_ptr<FuzzQueues> queues;
};

struct Request {
  GuestAddress status;
  GuestRange data;           // of a read
  uint64_t offset = 0;       // of that data on the disk
  bool expect_data = false;  // it is a read that is right in every way
};

Request submit(Machine& machine, FuzzInput& input) {
  static constexpr uint32_t kTypes[] = {kBlockIn,      kBlockOut,         kBlockIn,
                                        kBlockOut,     kBlockFlush,       kBlockGetId,
                                        kBlockDiscard, kBlockWriteZeroes, kBlockIn};
  uint32_t type = input.pick(kTypes);
  uint64_t sector = input.below(kSectors);
  uint64_t count = 1 + input.below(4);
  Request request;
  request.expect_data = type == kBlockIn && sector + count <= kSectors;
  if (input.rarely()) {
    request.expect_data = false;
    switch (input.below(3)) {
      case 0:
        type = input.take<uint32_t>();
        break;
      case 1:
        sector = input.take<uint64_t>();
        break;
      default:
        sector = kSectors - 1;
    }
  }
  BlockRequestHeader header{type, 0, sector};
  std::vector<FuzzRing::Buffer> buffers;
  GuestRange placed = machine.ring.place(std::as_bytes(std::span(&header, 1)));
  if (input.rarely()) {
    uint64_t cut = input.below(17);
    buffers.push_back({{placed.start, cut}, false});
    buffers.push_back({{GuestAddress(placed.start.value() + cut), placed.size - cut}, false});
  } else {
    buffers.push_back({placed, false});
  }
  uint64_t size = count * kSectorSize;
  if (input.rarely()) size = input.below(3000);
  if (type == kBlockOut) {
    std::array<std::byte, 4096> data;
    data.fill(static_cast<std::byte>(input.byte()));
    buffers.push_back({machine.ring.place(std::span(data).first(size)), false});
  } else if (type == kBlockDiscard || type == kBlockWriteZeroes) {
    const uint32_t ranges = 1 + (input.rarely() ? input.below(20) : 0);
    std::vector<BlockRange> values;
    for (uint32_t i = 0; i < ranges; i++)
      values.push_back({input.rarely() ? input.take<uint64_t>() : input.below(kSectors),
                        input.rarely() ? input.take<uint32_t>() : input.below(4),
                        input.rarely() ? input.take<uint32_t>() : input.byte() & 1u});
    buffers.push_back({machine.ring.place(std::as_bytes(std::span(values))), false});
  } else if (type == kBlockIn || type == kBlockGetId) {
    if (type == kBlockGetId) size = kBlockIdSize;
    request.data = {machine.ring.allocate(size), size};
    request.offset = sector * kSectorSize;
    request.expect_data &= size == count * kSectorSize;
    buffers.push_back({request.data, true});
  }
  const std::byte untouched{0xee};
  GuestRange status = machine.ring.place(std::span(&untouched, 1));
  request.status = status.start;
  if (input.rarely()) {
    request.expect_data = false;
  } else {
    buffers.push_back({status, true});
  }
  machine.ring.submit(input, buffers);
  return request;
}

}  // namespace
}  // namespace hutch::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace hutch::fuzz;
  static Machine* const machines[] = {new Machine(false), new Machine(true)};
  FuzzInput input(data, size);
  Machine& machine = *machines[input.rarely() ? 1 : 0];
  machine.disk->bytes.fill(0);
  const bool may_fail = input.rarely();
  machine.disk->calls_until_failure = may_fail ? input.byte() : 0;
  const uint64_t ring_features = kFeatureIndirectDescriptors | kFeatureEventIndex;
  const uint64_t features = input.rarely() ? input.take<uint64_t>() | ring_features : ~0ull;
  machine.queues->start(features);
  for (int step = 0; step < 12 && !input.is_empty() && !machine.queues->is_broken(); step++) {
    Request request = submit(machine, input);
    machine.queues->kick(0);
    FUZZ_CHECK(machine.loop->run_once(0));
    if (!request.expect_data || machine.ring.is_spoiled()) continue;
    const uint8_t status = memory().read<uint8_t>(request.status).value();
    FUZZ_CHECK(status == kBlockStatusOk || (status == kBlockStatusIoError && may_fail));
    std::array<uint8_t, kDiskSize> bytes;
    auto read = std::span(bytes).first(request.data.size);
    FUZZ_CHECK(memory().read_bytes(request.data.start, std::as_writable_bytes(read)));
    FUZZ_CHECK(
        status != kBlockStatusOk ||
        std::memcmp(bytes.data(), machine.disk->bytes.data() + request.offset, read.size()) == 0);
  }
  machine.queues->stop();
  return 0;
}
