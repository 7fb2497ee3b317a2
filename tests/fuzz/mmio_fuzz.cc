// Fuzzes the virtio-mmio transport in front of real devices: register accesses of every width at
// every offset, with whole initialisations between them so that queues run. Checked: the status
// state machine, configurations that stay frozen, and that a reset always brings the device back.
#include <memory>

#include "base/log.h"
#include "base/loop.h"
#include "tests/fuzz/fuzz_ring.h"
#include "virtio/block/block.h"
#include "virtio/mmio.h"
#include "virtio/rng.h"
#include "virtio/vsock/vsock.h"

namespace hutch::fuzz {
namespace {

using namespace virtio::spec;

// Reads as ones, takes everything.
class EndlessBackend final : public virtio::block::Backend {
 public:
  uint64_t size() const override { return 1 << 20; }
  Result<void> read(std::span<const iovec> buffers, uint64_t) override {
    for (const iovec& buffer : buffers) std::memset(buffer.iov_base, 0xff, buffer.iov_len);
    return {};
  }
  Result<void> write(std::span<const iovec>, uint64_t) override { return {}; }
  Result<void> flush() override { return {}; }
  Result<void> discard(uint64_t, uint64_t) override { return {}; }
  Result<void> write_zeroes(uint64_t, uint64_t, bool) override { return {}; }
};

struct Machine {
  explicit Machine(int kind) {
    if (kind == 0) device = std::make_unique<virtio::Rng>(*loop);
    if (kind == 1)
      device = std::make_unique<virtio::Block>(*loop, std::make_unique<EndlessBackend>(),
                                               virtio::BlockOptions{});
    if (kind == 2) device = std::make_unique<virtio::Vsock>(*loop, 3);
    transport = virtio::MmioTransport::create("fuzz", memory(), *device, interrupt).value();
    for (size_t i = 0; i < device->traits().queue_sizes.size(); i++)
      rings.emplace_back(GuestAddress(0x10000 + i * FuzzRing::kBytes), uint16_t{16});
  }

  uint32_t read(uint64_t offset) {
    le32 value(0);
    transport->read(offset, std::span(reinterpret_cast<uint8_t*>(&value), sizeof value));
    return value;
  }
  void write(uint64_t offset, uint32_t value) {
    le32 wire(value);
    transport->write(offset, std::span(reinterpret_cast<const uint8_t*>(&wire), sizeof wire));
  }

  std::unique_ptr<Loop> loop = Loop::create().value();
  CountingInterrupt interrupt;
  std::unique_ptr<virtio::Device> device;
  std::unique_ptr<virtio::MmioTransport> transport;
  std::vector<FuzzRing> rings;
};

void write_address(Machine& machine, FuzzInput& input, uint64_t offset, GuestAddress address) {
  uint64_t value = address.value();
  if (input.rarely()) value = input.take<uint64_t>();
  machine.write(offset, static_cast<uint32_t>(value));
  machine.write(offset + 4, static_cast<uint32_t>(value >> 32));
}

// Section 3.1.1, with a slip now and then.
void initialise(Machine& machine, FuzzInput& input) {
  machine.write(kRegisterStatus, 0);
  machine.write(kRegisterStatus, 1);
  machine.write(kRegisterStatus, 3);
  const uint64_t features =
      kFeatureVersion1 | (input.rarely() ? input.take<uint64_t>() : input.below(4) * (1ull << 28));
  for (uint32_t half : {0u, 1u}) {
    machine.write(kRegisterDriverFeaturesSelect, half);
    machine.write(kRegisterDriverFeatures, static_cast<uint32_t>(features >> (32 * half)));
  }
  machine.write(kRegisterStatus, 11);
  for (uint32_t i = 0; i < machine.rings.size(); i++) {
    machine.rings[i].clear();
    const virtio::QueueLayout& layout = machine.rings[i].layout();
    machine.write(kRegisterQueueSelect, i);
    machine.write(kRegisterQueueSize, input.rarely() ? input.take<uint32_t>() : layout.size);
    write_address(machine, input, kRegisterQueueDescriptorsLow, layout.descriptors);
    write_address(machine, input, kRegisterQueueDriverLow, layout.available);
    write_address(machine, input, kRegisterQueueDeviceLow, layout.used);
    machine.write(kRegisterQueueReady, input.rarely() ? input.take<uint32_t>() : 1);
  }
  machine.write(kRegisterStatus, 15);
}

void submit(Machine& machine, FuzzInput& input) {
  FuzzRing& ring = machine.rings[input.below(static_cast<uint32_t>(machine.rings.size()))];
  std::array<std::byte, 64> bytes;
  for (std::byte& value : bytes) value = static_cast<std::byte>(input.byte());
  std::vector<FuzzRing::Buffer> buffers;
  if (input.flip()) buffers.push_back({ring.place(bytes), false});
  const uint64_t size = 1 + input.below(1024);
  buffers.push_back({{ring.allocate(size), size}, true});
  ring.submit(input, buffers);
}

void random_access(Machine& machine, FuzzInput& input) {
  const uint64_t offset =
      input.rarely() ? input.below(virtio::MmioTransport::kSize) : 4ull * input.below(80);
  static constexpr uint32_t kWidths[] = {4, 4, 4, 4, 1, 2, 8, 3};
  const uint64_t width = input.pick(kWidths);
  std::array<uint8_t, 8> data{};
  if (input.flip()) {
    machine.transport->read(offset, std::span(data).first(width));
    return;
  }
  for (uint8_t& value : std::span(data).first(width)) value = input.byte();
  machine.transport->write(offset, std::span<const uint8_t>(data).first(width));
}

void check_status(uint32_t status) {
  FUZZ_CHECK((status & kStatusDriverOk) == 0 || (status & 11) == 11);
  FUZZ_CHECK((status & kStatusFeaturesOk) == 0 || (status & 3) == 3);
  FUZZ_CHECK((status & kStatusDriver) == 0 || (status & 1) == 1);
  FUZZ_CHECK((status & ~(15u | kStatusNeedsReset | kStatusFailed)) == 0);
}

}  // namespace
}  // namespace hutch::fuzz

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  // A broken ring is a warning, and here the rule.
  hutch::set_log_level(hutch::LogLevel::kError);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace hutch::fuzz;
  static Machine* const machines[] = {new Machine(0), new Machine(1), new Machine(2)};
  FuzzInput input(data, size);
  Machine& machine = *machines[input.below(3)];
  for (int step = 0; step < 32 && !input.is_empty(); step++) {
    const uint32_t before = machine.read(kRegisterStatus);
    bool initialised = false;
    switch (input.below(8)) {
      case 0:
        initialised = true;
        initialise(machine, input);
        break;
      case 1:
      case 2:
        submit(machine, input);
        break;
      case 3:
        machine.write(kRegisterQueueNotify,
                      input.rarely() ? input.take<uint32_t>() : input.below(3));
        FUZZ_CHECK(machine.loop->run_once(0));
        break;
      case 4:
        if (input.rarely()) {
          machine.transport->pause();
          FUZZ_CHECK(machine.loop->run_once(0));
          // Guest memory has not changed meanwhile, so what ran before runs again.
          FUZZ_CHECK(machine.transport->resume());
        } else {
          machine.transport->configuration_changed();
        }
        break;
      default:
        random_access(machine, input);
    }
    const uint32_t status = machine.read(kRegisterStatus);
    check_status(status);
    // Only a reset clears a bit.
    FUZZ_CHECK(initialised || status == 0 || (before & ~status) == 0);
  }

  // However the driver left it: a reset and a right driver bring it to life.
  FuzzInput none(nullptr, 0);
  initialise(machine, none);
  FUZZ_CHECK(machine.read(kRegisterStatus) == 15);
  FUZZ_CHECK(machine.loop->run_once(0));
  FUZZ_CHECK(machine.read(kRegisterStatus) == 15);
  machine.write(kRegisterStatus, 0);
  FUZZ_CHECK(machine.read(kRegisterStatus) == 0 && machine.read(kRegisterInterruptStatus) == 0);
  return 0;
}
