#include "protocol/vmm.h"

#include "protocol/codec.h"

namespace hutch::protocol::vmm {
namespace {

enum StartFlag : uint32_t {
  kHasPit = 1,
  kHasInitramfs = 2,
  kHasAgent = 4,
  kHasConsoleOutput = 8,
  kHasConsoleInput = 16,
  kHasNetwork = 32,
  kHasIpv6 = 64,
  kIsRestore = 128,
  kHasEntropyDevice = 256,
  kIsPrepared = 512,
  kHasPages = 1024,
};

enum DiskFlag : uint8_t { kIsReadOnly = 1, kHasDelta = 2 };

constexpr size_t kMaxCounters = 4096;

Encoder begin(MessageType type) {
  Encoder out;
  out.u8(static_cast<uint8_t>(type));
  return out;
}

// A Decoder behind the type byte; an error when the packet is of another type.
Result<Decoder> open(std::span<const std::byte> bytes, MessageType type) {
  if (TRY(type_of(bytes)) != type) return fail("a message of another type than expected");
  return Decoder(bytes.subspan(1));
}

void encode_counters(Encoder& out, const Report& report) {
  out.u32(static_cast<uint32_t>(report.counters.size()));
  for (const Counter& counter : report.counters) out.string(counter.name).u64(counter.value);
}

void encode_policy(Encoder& out, const Policy& policy) {
  out.u8(policy.allows_all).strings(policy.patterns);
}

Policy decode_policy_fields(Decoder& in) {
  Policy policy;
  policy.allows_all = in.u8() != 0;
  policy.patterns = in.strings();
  return policy;
}

void encode_key(Encoder& out, const SavedKey& key) {
  for (std::byte byte : key) out.u8(std::to_integer<uint8_t>(byte));
}

SavedKey decode_key(Decoder& in) {
  SavedKey key;
  for (std::byte& byte : key) byte = std::byte(in.u8());
  return key;
}

Result<Report> decode_counters(Decoder& in) {
  uint32_t count = in.u32();
  if (count > kMaxCounters) return fail(fmt::format("a report of {} counters", count));
  Report report;
  for (uint32_t i = 0; i < count; i++) {
    std::string name = in.string();
    uint64_t value = in.u64();
    report.counters.push_back({std::move(name), value});
  }
  return report;
}

}  // namespace

const char* name(EndReason reason) {
  switch (reason) {
    case EndReason::kPowerOff:
      return "power_off";
    case EndReason::kReset:
      return "reset";
    case EndReason::kPanic:
      return "panic";
    case EndReason::kTripleFault:
      return "triple_fault";
    case EndReason::kInternalError:
      return "kvm_internal_error";
    case EndReason::kHostError:
      return "host_error";
    case EndReason::kStopped:
      return "stopped";
  }
  return "unknown";
}

Packet encode(const Prepare& message) {
  return {begin(MessageType::kPrepare).take(), {message.kvm.get()}};
}

Result<Prepare> decode_prepare(std::span<const std::byte> bytes, std::vector<Fd> fds) {
  Decoder in = TRY(open(bytes, MessageType::kPrepare));
  TRY(in.finish("Prepare"));
  if (fds.size() != 1) return fail("Prepare needs exactly one descriptor");
  return Prepare{std::move(fds[0])};
}

Packet encode(const Start& message) {
  uint32_t flags = 0;
  std::vector<int> fds;
  if (message.kvm) fds.push_back(message.kvm.get());
  if (!message.restore) fds.push_back(message.kernel.get());
  auto optional = [&](const Fd& fd, StartFlag flag) {
    if (!fd) return;
    flags |= flag;
    fds.push_back(fd.get());
  };
  if (!message.kvm) flags |= kIsPrepared;
  if (message.pit) flags |= kHasPit;
  if (message.entropy_device) flags |= kHasEntropyDevice;
  if (message.network) flags |= kHasNetwork;
  if (message.network && message.network->ipv6) flags |= kHasIpv6;
  if (message.restore) flags |= kIsRestore;
  if (message.restore && message.restore->pages) flags |= kHasPages;
  optional(message.initramfs, kHasInitramfs);
  optional(message.agent, kHasAgent);
  optional(message.console_output, kHasConsoleOutput);
  optional(message.console_input, kHasConsoleInput);

  Encoder out = begin(MessageType::kStart);
  out.u32(message.cpus)
      .u64(message.memory)
      .u8(static_cast<uint8_t>(message.description))
      .u32(flags)
      .string(message.command_line)
      .u32(static_cast<uint32_t>(message.disks.size()));
  for (const Disk& disk : message.disks) {
    out.u8(static_cast<uint8_t>((disk.read_only ? kIsReadOnly : 0) | (disk.delta ? kHasDelta : 0)))
        .string(disk.id)
        .u32(static_cast<uint32_t>(disk.layers.size()));
    fds.push_back(disk.file.get());
    for (const Fd& layer : disk.layers) fds.push_back(layer.get());
    if (disk.delta) fds.push_back(disk.delta.get());
  }
  if (message.network) {
    encode_policy(out, message.network->policy);
    fds.push_back(message.network->broker.get());
  }
  if (message.restore) {
    encode_key(out, message.restore->key);
    fds.push_back(message.restore->memory.get());
    fds.push_back(message.restore->state.get());
    if (message.restore->pages) fds.push_back(message.restore->pages.get());
  }
  return {out.take(), std::move(fds)};
}

Result<Start> decode_start(std::span<const std::byte> bytes, std::vector<Fd> fds) {
  Decoder in = TRY(open(bytes, MessageType::kStart));
  size_t next_fd = 0;
  auto take_fd = [&]() -> Result<Fd> {
    if (next_fd >= fds.size()) return fail("Start without all of its descriptors");
    return std::move(fds[next_fd++]);
  };

  Start message;
  message.cpus = in.u32();
  message.memory = in.u64();
  uint8_t description = in.u8();
  uint32_t flags = in.u32();
  message.command_line = in.string();
  uint32_t disks = in.u32();
  if (disks > kMaxDisks) return fail(fmt::format("{} disks; at most {} fit", disks, kMaxDisks));
  size_t all_layers = 0;
  std::vector<uint8_t> disk_flags;
  for (uint32_t i = 0; i < disks; i++) {
    Disk disk;
    disk_flags.push_back(in.u8());
    disk.read_only = (disk_flags.back() & kIsReadOnly) != 0;
    disk.id = in.string();
    if (disk.id.size() > 20) return fail(fmt::format("disk id \"{}\" is over 20 bytes", disk.id));
    const bool has_delta = (disk_flags.back() & kHasDelta) != 0;
    const uint32_t layers = in.u32();
    all_layers += layers;
    if (all_layers > kMaxLayers)
      return fail(fmt::format("the disks have over {} frozen layers", kMaxLayers));
    if ((layers > 0 && !has_delta) || (has_delta && disk.read_only))
      return fail("a disk with layers that is not written to");
    disk.layers.resize(layers);
    message.disks.push_back(std::move(disk));
  }
  if (flags & kHasNetwork) {
    message.network.emplace().policy = decode_policy_fields(in);
    message.network->ipv6 = (flags & kHasIpv6) != 0;
  }
  if (flags & kIsRestore) message.restore.emplace().key = decode_key(in);
  TRY(in.finish("Start"));

  if (message.cpus < 1 || message.cpus > kMaxCpus)
    return fail(fmt::format("{} CPUs; 1 to {} are possible", message.cpus, kMaxCpus));
  if (message.memory < kMinMemory || message.memory > kMaxMemory || message.memory % (1 << 20) != 0)
    return fail(fmt::format("{} bytes of memory; {} MiB to {} GiB in whole MiB are possible",
                            message.memory, kMinMemory >> 20, kMaxMemory >> 30));
  if (description > static_cast<uint8_t>(Description::kMpTable))
    return fail(fmt::format("unknown machine description {}", description));
  if (message.command_line.size() > kMaxCommandLine ||
      message.command_line.find('\0') != std::string::npos)
    return fail(fmt::format("the kernel command line is over {} bytes or has a zero byte",
                            kMaxCommandLine));
  message.description = static_cast<Description>(description);
  message.pit = (flags & kHasPit) != 0;
  message.entropy_device = (flags & kHasEntropyDevice) != 0;
  if ((flags & kIsPrepared) == 0) message.kvm = TRY(take_fd());
  if (!message.restore) message.kernel = TRY(take_fd());
  if (flags & kHasInitramfs) message.initramfs = TRY(take_fd());
  if (flags & kHasAgent) message.agent = TRY(take_fd());
  if (flags & kHasConsoleOutput) message.console_output = TRY(take_fd());
  if (flags & kHasConsoleInput) message.console_input = TRY(take_fd());
  for (size_t i = 0; i < message.disks.size(); i++) {
    Disk& disk = message.disks[i];
    disk.file = TRY(take_fd());
    for (Fd& layer : disk.layers) layer = TRY(take_fd());
    if ((disk_flags[i] & kHasDelta) != 0) disk.delta = TRY(take_fd());
  }
  if (message.network) message.network->broker = TRY(take_fd());
  if (message.restore) {
    message.restore->memory = TRY(take_fd());
    message.restore->state = TRY(take_fd());
    if (flags & kHasPages) message.restore->pages = TRY(take_fd());
  }
  if (next_fd != fds.size()) return fail("Start with descriptors that nothing names");
  return message;
}

Packet encode(const Connect& message) {
  return {begin(MessageType::kConnect).u32(message.port).take(), {message.stream.get()}};
}

Result<Connect> decode_connect(std::span<const std::byte> bytes, std::vector<Fd> fds) {
  Decoder in = TRY(open(bytes, MessageType::kConnect));
  Connect message;
  message.port = in.u32();
  TRY(in.finish("Connect"));
  if (fds.size() != 1) return fail("Connect needs exactly one descriptor");
  message.stream = std::move(fds[0]);
  return message;
}

Packet encode(const Policy& message) {
  Encoder out = begin(MessageType::kPolicy);
  encode_policy(out, message);
  return {out.take(), {}};
}

Result<Policy> decode_policy(std::span<const std::byte> bytes) {
  Decoder in = TRY(open(bytes, MessageType::kPolicy));
  Policy message = decode_policy_fields(in);
  TRY(in.finish("Policy"));
  return message;
}

Packet encode(const Mark& message) {
  return {begin(MessageType::kMark)
              .u8(static_cast<uint8_t>(message.kind))
              .u64(message.monotonic_ns)
              .take(),
          {}};
}

Result<Mark> decode_mark(std::span<const std::byte> bytes) {
  Decoder in = TRY(open(bytes, MessageType::kMark));
  uint8_t kind = in.u8();
  Mark message{static_cast<MarkKind>(kind), in.u64()};
  TRY(in.finish("Mark"));
  if (kind < 1 || kind > 4) return fail(fmt::format("unknown mark {}", kind));
  return message;
}

Packet encode(const Report& message) {
  Encoder out = begin(MessageType::kReport);
  encode_counters(out, message);
  return {out.take(), {}};
}

Result<Report> decode_report(std::span<const std::byte> bytes) {
  Decoder in = TRY(open(bytes, MessageType::kReport));
  Report message = TRY(decode_counters(in));
  TRY(in.finish("Report"));
  return message;
}

Packet encode(const Ended& message) {
  Encoder out = begin(MessageType::kEnded);
  out.u8(static_cast<uint8_t>(message.reason))
      .string(message.message)
      .string(message.remedy)
      .string(message.console_tail);
  encode_counters(out, message.report);
  return {out.take(), {}};
}

Result<Ended> decode_ended(std::span<const std::byte> bytes) {
  Decoder in = TRY(open(bytes, MessageType::kEnded));
  uint8_t reason = in.u8();
  Ended message;
  message.reason = static_cast<EndReason>(reason);
  message.message = in.string();
  message.remedy = in.string();
  message.console_tail = in.string();
  message.report = TRY(decode_counters(in));
  TRY(in.finish("Ended"));
  if (reason < 1 || reason > 7) return fail(fmt::format("unknown end reason {}", reason));
  return message;
}

Packet encode(const Save& message) {
  Encoder out = begin(MessageType::kSave);
  encode_key(out, message.key);
  std::vector<int> fds{message.memory.get(), message.state.get()};
  out.u32(static_cast<uint32_t>(message.disks.size()));
  for (const FreezeDisk& disk : message.disks) {
    out.u32(disk.disk);
    fds.push_back(disk.frozen.get());
    fds.push_back(disk.fresh.get());
  }
  return {out.take(), std::move(fds)};
}

Result<Save> decode_save(std::span<const std::byte> bytes, std::vector<Fd> fds) {
  Decoder in = TRY(open(bytes, MessageType::kSave));
  Save message;
  message.key = decode_key(in);
  const uint32_t disks = in.u32();
  if (disks > kMaxDisks) return fail(fmt::format("{} disks; at most {} fit", disks, kMaxDisks));
  message.disks.resize(disks);
  for (FreezeDisk& disk : message.disks) disk.disk = in.u32();
  TRY(in.finish("Save"));
  if (fds.size() != 2 + 2 * message.disks.size())
    return fail("Save needs two descriptors, and two for each disk");
  message.memory = std::move(fds[0]);
  message.state = std::move(fds[1]);
  for (size_t i = 0; i < message.disks.size(); i++) {
    message.disks[i].frozen = std::move(fds[2 + 2 * i]);
    message.disks[i].fresh = std::move(fds[3 + 2 * i]);
  }
  return message;
}

Packet encode(const Saved& message) {
  Encoder out = begin(MessageType::kSaved);
  out.u64(message.memory_bytes)
      .string(message.problem)
      .u32(static_cast<uint32_t>(message.disks.size()));
  for (const DiskLayers& each : message.disks) out.u32(each.disk).u32(each.kept).u8(each.is_frozen);
  return {out.take(), {}};
}

Result<Saved> decode_saved(std::span<const std::byte> bytes) {
  Decoder in = TRY(open(bytes, MessageType::kSaved));
  Saved message;
  message.memory_bytes = in.u64();
  message.problem = in.string();
  const uint32_t disks = in.u32();
  if (disks > kMaxDisks) return fail(fmt::format("{} disks; at most {} fit", disks, kMaxDisks));
  message.disks.resize(disks);
  for (DiskLayers& each : message.disks) {
    each.disk = in.u32();
    each.kept = in.u32();
    each.is_frozen = in.u8() != 0;
  }
  TRY(in.finish("Saved"));
  return message;
}

Packet encode(const RecordPages& message) {
  return {begin(MessageType::kRecordPages).take(), {message.file.get()}};
}

Result<RecordPages> decode_record_pages(std::span<const std::byte> bytes, std::vector<Fd> fds) {
  Decoder in = TRY(open(bytes, MessageType::kRecordPages));
  TRY(in.finish("RecordPages"));
  if (fds.size() != 1) return fail("RecordPages needs exactly one descriptor");
  return RecordPages{std::move(fds[0])};
}

Packet encode(const PagesRecorded& message) {
  return {begin(MessageType::kPagesRecorded).u64(message.bytes).string(message.problem).take(), {}};
}

Result<PagesRecorded> decode_pages_recorded(std::span<const std::byte> bytes) {
  Decoder in = TRY(open(bytes, MessageType::kPagesRecorded));
  PagesRecorded message;
  message.bytes = in.u64();
  message.problem = in.string();
  TRY(in.finish("PagesRecorded"));
  return message;
}

Packet encode_plain(MessageType type) {
  return {begin(type).take(), {}};
}

Result<MessageType> type_of(std::span<const std::byte> bytes) {
  if (bytes.empty()) return fail("an empty message");
  auto type = static_cast<uint8_t>(bytes[0]);
  bool known = (type >= static_cast<uint8_t>(MessageType::kStart) &&
                type <= static_cast<uint8_t>(MessageType::kRecordPages)) ||
               (type >= static_cast<uint8_t>(MessageType::kMark) &&
                type <= static_cast<uint8_t>(MessageType::kPagesRecorded));
  if (!known) return fail(fmt::format("a message of unknown type {}", type));
  return static_cast<MessageType>(type);
}

}  // namespace hutch::protocol::vmm
