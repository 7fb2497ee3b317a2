// Fuzzes the socket device between a guest that is mostly right and a host that does everything a
// host can. Checked: connections and stray answers are bounded; the host reads exactly what the
// guest sent on that connection, in order, and nothing that came with forged addresses.
#include <sys/socket.h>
#include <unistd.h>

#include <memory>

#include "base/log.h"
#include "base/loop.h"
#include "base/sys.h"
#include "tests/fuzz/fuzz_ring.h"
#include "virtio/vsock/vsock.h"

namespace hutch::fuzz {
namespace {

using namespace virtio::spec;
using virtio::Vsock;

constexpr uint64_t kGuestCid = 3;
constexpr uint32_t kPorts = 3;
constexpr std::byte kForged{0xff};  // never part of the pattern

std::byte pattern(uint32_t index) {
  return static_cast<std::byte>(index % 251);
}

// One port of the host, offered to the guest's port of the same number, over and over.
struct Flow {
  Fd host;
  uint32_t sent = 0;      // pattern bytes that the guest has put into packets
  uint32_t received = 0;  // of those, read by the host
};

struct Machine {
  std::unique_ptr<Loop> loop = Loop::create().value();
  Vsock device{*loop, kGuestCid};
  std::array<FuzzRing, 3> rings{FuzzRing(GuestAddress(0x10000), 64),
                                FuzzRing(GuestAddress(0x20000), 64),
                                FuzzRing(GuestAddress(0x30000), 16)};
  FuzzQueues queues{device, rings};
  std::array<Flow, kPorts> flows;

  bool is_spoiled() const { return rings[0].is_spoiled() || rings[1].is_spoiled(); }

  void run() {
    FUZZ_CHECK(loop->run_once(0));
    FUZZ_CHECK(device.connection_count() <= Vsock::kMaxConnections);
    FUZZ_CHECK(device.stray_reset_count() <= Vsock::kMaxStrayResets);
  }
};

void offer(Machine& machine, uint32_t port) {
  // What the guest has sent before belongs to the connection before.
  machine.run();
  Flow& flow = machine.flows[port];
  // What was offered before and not taken is closed, and with it the host's end.
  auto [ours, theirs] = socket_pair(SOCK_STREAM).value();
  machine.device.offer(port, std::move(ours));
  flow = Flow{.host = std::move(theirs)};
}

void post_receive_buffer(Machine& machine, FuzzInput& input) {
  const uint64_t size = input.rarely() ? input.below(60) + 1 : 1024;
  FuzzRing::Buffer buffer{{machine.rings[0].allocate(size), size}, true};
  machine.rings[0].submit(input, std::span(&buffer, 1));
  machine.queues.kick(kVsockQueueRx);
}

void send(Machine& machine, FuzzInput& input) {
  static constexpr uint16_t kOperations[] = {
      kVsockReadWrite,    kVsockRequest, kVsockReadWrite,     kVsockShutdown, kVsockReadWrite,
      kVsockCreditUpdate, kVsockReset,   kVsockCreditRequest, kVsockResponse};
  const uint32_t port = input.below(kPorts);
  Flow& flow = machine.flows[port];
  const uint16_t operation = input.pick(kOperations);
  const uint32_t length = operation == kVsockReadWrite ? input.below(256) : 0;
  VsockHeader header{kGuestCid,
                     kVsockHostCid,
                     port,
                     port,
                     length,
                     kVsockTypeStream,
                     operation,
                     operation == kVsockShutdown ? input.byte() & 3u : 0,
                     input.rarely() ? input.take<uint32_t>() : 65536,
                     0};
  const VsockHeader honest = header;
  if (input.rarely()) {
    switch (input.below(8)) {
      case 0:
        header.source_cid = input.take<uint64_t>();
        break;
      case 1:
        header.destination_cid = input.take<uint64_t>();
        break;
      // Not of a REQUEST: that would open another connection, which the model does not know.
      case 2:
        if (operation != kVsockRequest) header.source_port = input.take<uint32_t>();
        break;
      case 3:
        if (operation != kVsockRequest) header.destination_port = input.take<uint32_t>();
        break;
      case 4:
        header.length = input.take<uint32_t>();
        break;
      case 5:
        header.type = input.take<uint16_t>();
        break;
      case 6:
        header.operation = input.take<uint16_t>();
        break;
      default:
        header.forwarded_count = input.take<uint32_t>();
    }
  }
  // Only addresses and type decide which connection a packet belongs to.
  VsockHeader address = header;
  address.length = honest.length;
  address.operation = honest.operation;
  address.forwarded_count = honest.forwarded_count;
  const bool is_honest = std::memcmp(&address, &honest, sizeof address) == 0;
  // What came before a connection opened was dropped; a second REQUEST ends the connection.
  if (is_honest && header.operation == kVsockRequest) flow.sent = 0;
  std::vector<std::byte> payload(length, kForged);
  if (is_honest && header.operation == kVsockReadWrite) {
    const uint32_t carried = std::min<uint32_t>(header.length, length);
    for (std::byte& byte : std::span(payload).first(carried)) byte = pattern(flow.sent++);
  }
  std::vector<FuzzRing::Buffer> buffers{
      {machine.rings[1].place(std::as_bytes(std::span(&header, 1))), false}};
  if (length > 0) buffers.push_back({machine.rings[1].place(payload), false});
  machine.rings[1].submit(input, buffers);
  machine.queues.kick(kVsockQueueTx);
}

void host_acts(Machine& machine, FuzzInput& input) {
  Flow& flow = machine.flows[input.below(kPorts)];
  if (!flow.host) return;
  switch (input.below(6)) {
    case 0:
    case 1: {
      std::array<std::byte, 2000> bytes{};
      ::send(flow.host.get(), bytes.data(), input.below(2000), MSG_DONTWAIT | MSG_NOSIGNAL);
      break;
    }
    case 2:
    case 3: {
      std::array<std::byte, 1000> bytes;
      ssize_t count = ::recv(flow.host.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
      for (ssize_t i = 0; i < count; i++) {
        // A driver that spoils its rings may deliver any of its own memory.
        FUZZ_CHECK(machine.is_spoiled() ||
                   bytes[static_cast<size_t>(i)] == pattern(flow.received++));
      }
      break;
    }
    case 4:
      ::shutdown(flow.host.get(), static_cast<int>(input.below(3)));
      break;
    default:
      flow = Flow();
  }
}

}  // namespace
}  // namespace hutch::fuzz

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  hutch::set_log_level(hutch::LogLevel::kError);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace hutch;
  using namespace hutch::fuzz;
  static Machine& machine = *new Machine();
  FuzzInput input(data, size);
  machine.flows = {};
  machine.queues.start(static_cast<uint64_t>(input.below(4)) << 28);
  machine.run();
  for (int step = 0; step < 40 && !input.is_empty(); step++) {
    switch (input.below(8)) {
      case 5:
        offer(machine, input.below(kPorts));
        break;
      case 1:
        post_receive_buffer(machine, input);
        break;
      case 2: {
        if (machine.device.connection_count() >= Vsock::kMaxConnections || !input.rarely()) break;
        auto [ours, theirs] = socket_pair(SOCK_STREAM).value();
        FUZZ_CHECK(machine.device.connect(input.below(kPorts), std::move(ours)));
        break;
      }
      case 3:
        host_acts(machine, input);
        break;
      case 4:
        machine.run();
        break;
      default:
        send(machine, input);
    }
  }
  machine.run();
  machine.run();
  machine.queues.stop();
  FUZZ_CHECK(machine.device.connection_count() == 0);
  return 0;
}
