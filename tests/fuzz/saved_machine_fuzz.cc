// Fuzzes what a saved machine is read from, behind its keyed hash: whoever has the key may write
// what he likes. Checked: what was read is written and read the same again, and each device's state
// is refused or makes a transport that runs its queues, pauses, and says what it was given.
#include <cstdlib>
#include <memory>

#include "base/log.h"
#include "base/loop.h"
#include "snapshot/state.h"
#include "tests/fuzz/fuzz_ring.h"
#include "virtio/mmio.h"
#include "virtio/rng.h"
#include "virtio/vsock/vsock.h"

namespace hutch::fuzz {
namespace {

void check(bool condition) {
  if (!condition) std::abort();
}

void restore(const snapshot::SavedTransport& saved, virtio::Device& device, Loop& loop) {
  CountingInterrupt interrupt;
  auto transport = virtio::MmioTransport::create("fuzz", memory(), device, interrupt).value();
  if (!transport->restore(saved)) return;
  snapshot::SavedTransport same = transport->save();
  check(same.status == saved.status && same.queues.size() == saved.queues.size());
  for (size_t i = 0; i < same.queues.size(); i++)
    check(same.queues[i].is_running == saved.queues[i].is_running);
  if (!transport->resume()) return;
  for (int round = 0; round < 4; round++) check(loop.run_once(0).has_value());
  transport->pause();
  check(transport->save().status == saved.status);
  check(transport->resume().has_value());
}

}  // namespace
}  // namespace hutch::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace hutch;
  set_log_level(LogLevel::kError);
  auto fields = snapshot::Fields::parse(std::as_bytes(std::span(data, size)));
  if (!fields) return 0;
  auto machine = snapshot::decode_machine(*fields);
  if (!machine) return 0;
  snapshot::FieldWriter writer = snapshot::encode(*machine);
  auto again = snapshot::decode_machine(snapshot::Fields::parse(writer.body()).value());
  fuzz::check(again && *again == *machine);
  std::unique_ptr<Loop> loop = Loop::create().value();
  for (const snapshot::SavedDevice& device : machine->devices) {
    virtio::Rng rng(*loop);
    virtio::Vsock vsock(*loop, 3);
    vsock.announce_reset();
    if (device.transport.queues.size() == 1) fuzz::restore(device.transport, rng, *loop);
    if (device.transport.queues.size() == 3) fuzz::restore(device.transport, vsock, *loop);
  }
  return 0;
}
