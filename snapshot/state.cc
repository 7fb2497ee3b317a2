#include "snapshot/state.h"

#include <limits>

#include "base/wire.h"

namespace hutch::snapshot {
namespace {

constexpr size_t kMaxVcpus = 64;
constexpr size_t kMaxDevices = 64;
constexpr size_t kMaxQueues = 64;
constexpr size_t kMaxNames = 4096;
constexpr size_t kMaxFlows = 4096;
constexpr size_t kMaxLayers = 256;
constexpr size_t kLayerIdSize = 16;

// A number is never used for anything else, also when its field is gone.
namespace machine {
enum : uint32_t {
  kMemory = 1,
  kCpuid = 2,
  kClock = 3,
  kInterruptController = 4,
  kVcpu = 5,
  kSerial = 6,
  kDevice = 7,
  kName = 8,
  kFlow = 9,
  kDisk = 10,
};
}
namespace disk {
enum : uint32_t { kLayer = 1 };
}
namespace layer {
enum : uint32_t { kId = 1, kBitmapHash = 2 };
}
namespace name {
enum : uint32_t { kText = 1, kAddress = 2 };
}
namespace flow {
enum : uint32_t {
  kFarAddress = 1,
  kFarPort = 2,
  kGuestPort = 3,
  kSequence = 4,
  kAcknowledgement = 5
};
}
namespace vcpu {
enum : uint32_t {
  kRegisters = 1,
  kSpecialRegisters = 2,
  kExtendedState = 3,
  kExtendedControls = 4,
  kDebugRegisters = 5,
  kLocalApic = 6,
  kEvents = 7,
  kRunState = 8,
  kTscKhz = 9,
  kMsrs = 10
};
}
namespace device {
enum : uint32_t {
  kName = 1,
  kStatus = 2,
  kDeviceFeaturesSelect = 3,
  kDriverFeaturesSelect = 4,
  kQueueSelect = 5,
  kDriverFeatures = 6,
  kUnknownFeatures = 7,
  kNeedsReset = 8,
  kInterruptStatus = 9,
  kConfigGeneration = 10,
  kQueue = 11
};
}
namespace queue {
enum : uint32_t {
  kSize = 1,
  kDescriptors = 2,
  kAvailable = 3,
  kUsed = 4,
  kIsReady = 5,
  kIsRunning = 6,
  kNextAvailable = 7,
  kNextUsed = 8
};
}
namespace serial {
enum : uint32_t {
  kInput = 1,
  kTransmitterEmpty = 2,
  kPending = 3,
  kInterruptEnable = 4,
  kFifoControl = 5,
  kLineControl = 6,
  kModemControl = 7,
  kScratch = 8,
  kDivisor = 9
};
}

struct WireMsr {
  le32 index;
  le32 reserved;
  le64 value;
};

Result<Bytes> copy(const Fields& fields, uint32_t number) {
  std::span<const std::byte> value = TRY(fields.bytes(number));
  return Bytes(value.begin(), value.end());
}

template <typename T>
Result<T> number(const Fields& fields, uint32_t field) {
  return static_cast<T>(TRY(fields.u64(field, std::numeric_limits<T>::max())));
}

Result<bool> flag(const Fields& fields, uint32_t field) {
  uint64_t value = TRY(fields.u64(field, 1));
  return value != 0;
}

FieldWriter encode(const SavedVcpu& saved) {
  FieldWriter writer;
  writer.bytes(vcpu::kRegisters, saved.registers)
      .bytes(vcpu::kSpecialRegisters, saved.special_registers)
      .bytes(vcpu::kExtendedState, saved.extended_state)
      .bytes(vcpu::kExtendedControls, saved.extended_controls)
      .bytes(vcpu::kDebugRegisters, saved.debug_registers)
      .bytes(vcpu::kLocalApic, saved.local_apic)
      .bytes(vcpu::kEvents, saved.events)
      .u64(vcpu::kRunState, saved.run_state)
      .u64(vcpu::kTscKhz, saved.tsc_khz);
  std::vector<WireMsr> msrs;
  for (const SavedMsr& msr : saved.msrs) msrs.push_back({msr.index, 0, msr.value});
  writer.bytes(vcpu::kMsrs, std::as_bytes(std::span(msrs)));
  return writer;
}

Result<SavedVcpu> decode_vcpu(const Fields& fields) {
  SavedVcpu saved;
  saved.registers = TRY(copy(fields, vcpu::kRegisters));
  saved.special_registers = TRY(copy(fields, vcpu::kSpecialRegisters));
  saved.extended_state = TRY(copy(fields, vcpu::kExtendedState));
  saved.extended_controls = TRY(copy(fields, vcpu::kExtendedControls));
  saved.debug_registers = TRY(copy(fields, vcpu::kDebugRegisters));
  saved.local_apic = TRY(copy(fields, vcpu::kLocalApic));
  saved.events = TRY(copy(fields, vcpu::kEvents));
  saved.run_state = TRY(number<uint32_t>(fields, vcpu::kRunState));
  saved.tsc_khz = TRY(number<uint32_t>(fields, vcpu::kTscKhz));
  std::span<const std::byte> msrs = TRY(fields.bytes(vcpu::kMsrs));
  if (msrs.size() % sizeof(WireMsr) != 0) return fail("half of a model-specific register");
  for (; !msrs.empty(); msrs = msrs.subspan(sizeof(WireMsr))) {
    WireMsr msr;
    std::memcpy(&msr, msrs.data(), sizeof msr);
    saved.msrs.push_back({msr.index, msr.value});
  }
  return saved;
}

FieldWriter encode(const SavedQueue& saved) {
  FieldWriter writer;
  writer.u64(queue::kSize, saved.size)
      .u64(queue::kDescriptors, saved.descriptors)
      .u64(queue::kAvailable, saved.available)
      .u64(queue::kUsed, saved.used)
      .u64(queue::kIsReady, saved.is_ready)
      .u64(queue::kIsRunning, saved.is_running)
      .u64(queue::kNextAvailable, saved.next_available)
      .u64(queue::kNextUsed, saved.next_used);
  return writer;
}

Result<SavedQueue> decode_queue(const Fields& fields) {
  SavedQueue saved;
  saved.size = TRY(number<uint32_t>(fields, queue::kSize));
  saved.descriptors = TRY(fields.u64(queue::kDescriptors));
  saved.available = TRY(fields.u64(queue::kAvailable));
  saved.used = TRY(fields.u64(queue::kUsed));
  saved.is_ready = TRY(flag(fields, queue::kIsReady));
  saved.is_running = TRY(flag(fields, queue::kIsRunning));
  saved.next_available = TRY(number<uint16_t>(fields, queue::kNextAvailable));
  saved.next_used = TRY(number<uint16_t>(fields, queue::kNextUsed));
  return saved;
}

FieldWriter encode(const SavedDevice& saved) {
  const SavedTransport& transport = saved.transport;
  FieldWriter writer;
  writer.text(device::kName, saved.name)
      .u64(device::kStatus, transport.status)
      .u64(device::kDeviceFeaturesSelect, transport.device_features_select)
      .u64(device::kDriverFeaturesSelect, transport.driver_features_select)
      .u64(device::kQueueSelect, transport.queue_select)
      .u64(device::kDriverFeatures, transport.driver_features)
      .u64(device::kUnknownFeatures, transport.has_unknown_features)
      .u64(device::kNeedsReset, transport.needs_reset)
      .u64(device::kInterruptStatus, transport.interrupt_status)
      .u64(device::kConfigGeneration, transport.config_generation);
  for (const SavedQueue& each : transport.queues) writer.group(device::kQueue, encode(each));
  return writer;
}

Result<SavedDevice> decode_device(const Fields& fields) {
  SavedDevice saved;
  SavedTransport& transport = saved.transport;
  saved.name = TRY(fields.text(device::kName));
  transport.status = TRY(number<uint32_t>(fields, device::kStatus));
  transport.device_features_select = TRY(number<uint32_t>(fields, device::kDeviceFeaturesSelect));
  transport.driver_features_select = TRY(number<uint32_t>(fields, device::kDriverFeaturesSelect));
  transport.queue_select = TRY(number<uint32_t>(fields, device::kQueueSelect));
  transport.driver_features = TRY(fields.u64(device::kDriverFeatures));
  transport.has_unknown_features = TRY(flag(fields, device::kUnknownFeatures));
  transport.needs_reset = TRY(flag(fields, device::kNeedsReset));
  transport.interrupt_status = TRY(number<uint32_t>(fields, device::kInterruptStatus));
  transport.config_generation = TRY(number<uint32_t>(fields, device::kConfigGeneration));
  for (const Fields& each : TRY(fields.groups(device::kQueue))) {
    if (transport.queues.size() == kMaxQueues) return fail("too many queues");
    transport.queues.push_back(TRY(decode_queue(each)));
  }
  return saved;
}

FieldWriter encode(const SavedSerial& saved) {
  FieldWriter writer;
  writer.bytes(serial::kInput, saved.input)
      .u64(serial::kTransmitterEmpty, saved.transmitter_empty_pending)
      .u64(serial::kPending, saved.pending)
      .u64(serial::kInterruptEnable, saved.interrupt_enable)
      .u64(serial::kFifoControl, saved.fifo_control)
      .u64(serial::kLineControl, saved.line_control)
      .u64(serial::kModemControl, saved.modem_control)
      .u64(serial::kScratch, saved.scratch)
      .u64(serial::kDivisor, saved.divisor);
  return writer;
}

Result<SavedSerial> decode_serial(const Fields& fields) {
  SavedSerial saved;
  saved.input = TRY(copy(fields, serial::kInput));
  saved.transmitter_empty_pending = TRY(flag(fields, serial::kTransmitterEmpty));
  saved.pending = TRY(number<uint8_t>(fields, serial::kPending));
  saved.interrupt_enable = TRY(number<uint8_t>(fields, serial::kInterruptEnable));
  saved.fifo_control = TRY(number<uint8_t>(fields, serial::kFifoControl));
  saved.line_control = TRY(number<uint8_t>(fields, serial::kLineControl));
  saved.modem_control = TRY(number<uint8_t>(fields, serial::kModemControl));
  saved.scratch = TRY(number<uint8_t>(fields, serial::kScratch));
  saved.divisor = TRY(number<uint16_t>(fields, serial::kDivisor));
  return saved;
}

FieldWriter encode(const SavedDisk& saved) {
  FieldWriter writer;
  for (const SavedLayer& each : saved.layers)
    writer.group(
        disk::kLayer,
        FieldWriter().bytes(layer::kId, each.id).u64(layer::kBitmapHash, each.bitmap_hash));
  return writer;
}

Result<SavedDisk> decode_disk(const Fields& fields) {
  SavedDisk saved;
  for (const Fields& each : TRY(fields.groups(disk::kLayer))) {
    if (saved.layers.size() == kMaxLayers) return fail("too many layers of a disk");
    SavedLayer layer;
    layer.id = TRY(copy(each, layer::kId));
    if (layer.id.size() != kLayerIdSize) return fail("the id of a disk's layer is none");
    layer.bitmap_hash = TRY(each.u64(layer::kBitmapHash));
    saved.layers.push_back(std::move(layer));
  }
  return saved;
}

}  // namespace

FieldWriter encode(const SavedMachine& saved) {
  FieldWriter writer;
  writer.u64(machine::kMemory, saved.memory)
      .bytes(machine::kCpuid, saved.cpuid)
      .bytes(machine::kClock, saved.clock);
  for (const Bytes& each : saved.interrupt_controllers)
    writer.group(machine::kInterruptController, FieldWriter().bytes(1, each));
  for (const SavedVcpu& each : saved.vcpus) writer.group(machine::kVcpu, encode(each));
  writer.group(machine::kSerial, encode(saved.serial));
  for (const SavedDevice& each : saved.devices) writer.group(machine::kDevice, encode(each));
  for (const SavedDisk& each : saved.disks) writer.group(machine::kDisk, encode(each));
  for (const SavedName& each : saved.network.names)
    writer.group(machine::kName,
                 FieldWriter().text(name::kText, each.name).u64(name::kAddress, each.address));
  for (const SavedFlow& each : saved.network.flows)
    writer.group(machine::kFlow, FieldWriter()
                                     .bytes(flow::kFarAddress, each.far_address)
                                     .u64(flow::kFarPort, each.far_port)
                                     .u64(flow::kGuestPort, each.guest_port)
                                     .u64(flow::kSequence, each.sequence)
                                     .u64(flow::kAcknowledgement, each.acknowledgement));
  return writer;
}

Result<SavedMachine> decode_machine(const Fields& fields) {
  SavedMachine saved;
  saved.memory = TRY(fields.u64(machine::kMemory));
  saved.cpuid = TRY(copy(fields, machine::kCpuid));
  saved.clock = TRY(copy(fields, machine::kClock));
  for (const Fields& each : TRY(fields.groups(machine::kInterruptController))) {
    if (saved.interrupt_controllers.size() == 3) return fail("too many interrupt controllers");
    saved.interrupt_controllers.push_back(TRY(copy(each, 1)));
  }
  for (const Fields& each : TRY(fields.groups(machine::kVcpu))) {
    if (saved.vcpus.size() == kMaxVcpus) return fail("too many processors");
    saved.vcpus.push_back(TRY(decode_vcpu(each)));
  }
  saved.serial = TRY(decode_serial(TRY(fields.group(machine::kSerial))));
  for (const Fields& each : TRY(fields.groups(machine::kDevice))) {
    if (saved.devices.size() == kMaxDevices) return fail("too many devices");
    saved.devices.push_back(TRY(decode_device(each)));
  }
  for (const Fields& each : TRY(fields.groups(machine::kDisk))) {
    if (saved.disks.size() == kMaxDevices) return fail("too many disks");
    saved.disks.push_back(TRY(decode_disk(each)));
  }
  for (const Fields& each : TRY(fields.groups(machine::kName))) {
    if (saved.network.names.size() == kMaxNames) return fail("too many names");
    std::string text = TRY(each.text(name::kText));
    const auto address = TRY(number<uint32_t>(each, name::kAddress));
    saved.network.names.push_back({std::move(text), address});
  }
  for (const Fields& each : TRY(fields.groups(machine::kFlow))) {
    if (saved.network.flows.size() == kMaxFlows) return fail("too many connections");
    SavedFlow flow;
    flow.far_address = TRY(copy(each, flow::kFarAddress));
    if (flow.far_address.size() != 4 && flow.far_address.size() != 16)
      return fail("a connection's address is none");
    flow.far_port = TRY(number<uint16_t>(each, flow::kFarPort));
    flow.guest_port = TRY(number<uint16_t>(each, flow::kGuestPort));
    flow.sequence = TRY(number<uint32_t>(each, flow::kSequence));
    flow.acknowledgement = TRY(number<uint32_t>(each, flow::kAcknowledgement));
    saved.network.flows.push_back(std::move(flow));
  }
  return saved;
}

}  // namespace hutch::snapshot
