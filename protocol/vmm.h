// The VMM protocol: what a launcher (libhutch) and one hutch-vmm process say to each other.
//
// One Unix SOCK_SEQPACKET socket, inherited by hutch-vmm as the descriptor named on its command
// line; each message is one packet: a type byte and the fields below. Descriptors travel with Start
// and Connect. The VMM opens nothing by name: all it works on comes in here.
//
//   launcher                              hutch-vmm
//   Prepare + descriptor ->            optional: the VM is made, before anything is known of it
//   Start + descriptors  ->
//                        <-               Mark (first_run, init, agent), each once
//   Policy               ->            which hosts the guest may reach from now on
//   Pause                ->
//                        <-               Paused: no processor runs, no queue is served
//   Save + descriptors   ->            only while it is paused
//                        <-               Saved
//   RecordPages + descr. ->            which pages a restored machine has written to by now
//                        <-               PagesRecorded
//   Resume               ->
//                        <-               Resumed
//   Query                ->
//                        <-               Report
//   Stop                 ->
//                        <-               Ended, always the last message; then the process exits
//
// The launcher trusts the VMM's messages no more than it must: a VMM taken over by its guest is
// contained by its jail, so the launcher decodes with the same bounds as everything else. When the
// launcher's end closes, the VMM ends its machine.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace hutch::protocol::vmm {

constexpr size_t kMaxMessage = 128 * 1024;
constexpr size_t kMaxDisks = 8;
constexpr size_t kMaxLayers = 64;         // frozen ones, of all disks
constexpr size_t kMaxCommandLine = 2047;  // what Linux keeps on x86, without the final zero
constexpr uint64_t kMinMemory = 128ull << 20;
constexpr uint64_t kMaxMemory = 64ull << 30;
constexpr uint32_t kMaxCpus = 16;

enum class MessageType : uint8_t {
  kStart = 1,
  kQuery = 2,  // no fields
  kStop = 3,   // no fields
  kConnect = 4,
  kPolicy = 5,
  kPause = 6,   // no fields
  kResume = 7,  // no fields
  kSave = 8,
  kPrepare = 9,
  kRecordPages = 10,
  kMark = 65,
  kReport = 66,
  kEnded = 67,
  kPaused = 68,   // no fields
  kResumed = 69,  // no fields
  kSaved = 70,
  kPagesRecorded = 71,
};

// How the machine is described to the guest kernel.
enum class Description : uint8_t {
  kAuto = 0,  // a device tree for a kernel that says it takes one, else an MP table
  kDeviceTree = 1,
  kMpTable = 2,  // and `virtio_mmio.device=` words on the command line
};

struct Disk {
  Fd file;
  bool read_only = false;
  std::string id;  // at most 20 bytes, what the guest reads as the disk's serial number
  // Open: `file` is a base that nobody changes, and what the guest writes goes to this file, empty
  // at first (virtio/block/layered.h).
  Fd delta;
  std::vector<Fd> layers;  // with a delta: frozen ones between it and the base, from below
};

// Which hosts the guest may reach (policy/policy.h reads the patterns).
struct Policy {
  bool allows_all = false;
  std::vector<std::string> patterns;
};

// The guest's network device.
struct Network {
  Policy policy;
  bool ipv6 = false;  // the guest has an address of version 6, too
  Fd broker;          // SOCK_SEQPACKET, protocol/broker.h
};

// Ties what is saved to who saves it: see snapshot/fields.h.
using SavedKey = std::array<std::byte, 16>;

// A saved machine to go on with instead of a boot. Processors, memory and devices must be those
// that it was saved with.
struct Restore {
  Fd memory;  // an image (memory/memory_image.h) that does not change any more
  Fd state;
  SavedKey key{};
  Fd pages;  // optional: memory/written_pages.h, brought in before the guest runs
};

// Before Start, whose `kvm` is not used then.
struct Prepare {
  Fd kvm;  // an open /dev/kvm
};

struct Start {
  uint32_t cpus = 1;               // 1 to kMaxCpus
  uint64_t memory = 256ull << 20;  // bytes, a multiple of 1 MiB, kMinMemory to kMaxMemory
  Description description = Description::kAuto;
  std::string command_line;        // of the kernel; the VMM adds what describes the machine
  bool pit = false;                // an emulated 8254 timer also beside a device tree
  bool entropy_device = false;     // virtio-rng
  Fd kvm;                          // an open /dev/kvm; not after Prepare
  Fd kernel;                       // ELF vmlinux or bzImage; not with `restore`
  Fd initramfs;                    // optional
  Fd agent;                        // optional: stream socket bridged to the agent's connection
  Fd console_output;               // optional: gets the serial console's bytes; may drop when slow
  Fd console_input;                // optional: feeds the serial console
  std::vector<Disk> disks;         // at most kMaxDisks, /dev/vda first
  std::optional<Network> network;  // none: the guest has no network device
  // Goes on with this; kernel, initramfs and command_line are not used then.
  std::optional<Restore> restore;
};

// The delta of a disk becomes a frozen layer, and another one takes its place; an empty delta stays
// what it is. Where the disk has many frozen layers, the upper ones leave it first, and the delta
// has what they had.
struct FreezeDisk {
  uint32_t disk = 0;
  Fd frozen;  // the delta's file, read-only
  Fd fresh;   // an empty file
};

// Where a paused machine is saved: two empty files. Each disk with a delta is frozen.
struct Save {
  Fd memory;
  Fd state;
  SavedKey key{};
  std::vector<FreezeDisk> disks;
};
// Which layers a disk goes on with.
struct DiskLayers {
  uint32_t disk = 0;
  uint32_t kept = 0;       // of the frozen layers that it had, from below: the others left it
  bool is_frozen = false;  // what was its delta is one more, above those, and `fresh` its delta
  bool operator==(const DiskLayers&) const = default;
};
struct RecordPages {
  Fd file;  // empty
};

struct PagesRecorded {
  uint64_t bytes = 0;   // in those pages
  std::string problem;  // empty: it is written
};

struct Saved {
  uint64_t memory_bytes = 0;      // that are no holes
  std::string problem;            // why it could not be saved; empty: it was
  std::vector<DiskLayers> disks;  // each at most once, also then; one that is missing is as it was
};

// A new stream to a vsock port of the guest; the descriptor is closed when the guest refuses.
struct Connect {
  uint32_t port = 0;
  Fd stream;
};

enum class MarkKind : uint8_t {
  kFirstRun = 1,  // just before the first KVM_RUN
  kKernel = 2,    // the guest kernel's first exit to the VMM
  kInit = 3,      // the agent runs as PID 1
  kAgent = 4,     // the agent's connection is open
};
struct Mark {
  MarkKind kind{};
  uint64_t monotonic_ns = 0;
};

// Named counters, such as "user_exits" or "user_exits_until_init/mmio/0xd0000070".
struct Counter {
  std::string name;
  uint64_t value = 0;
};
struct Report {
  std::vector<Counter> counters;
};

enum class EndReason : uint8_t {
  kPowerOff = 1,       // the guest powered itself off
  kReset = 2,          // the guest asked for a reset
  kPanic = 3,          // the guest kernel panicked
  kTripleFault = 4,    // the guest CPU shut down
  kInternalError = 5,  // KVM could not run the guest: KVM_INTERNAL_ERROR, failed entry
  kHostError = 6,      // a system call failed, the kernel image is bad, ...
  kStopped = 7,        // Stop, or the launcher went away
};
struct Ended {
  EndReason reason{};
  std::string message;       // one sentence for a person
  std::string remedy;        // empty when there is none
  std::string console_tail;  // the last lines of the console, control characters removed
  Report report;
};

// The short name of a reason for programs: "power_off", "panic", ...
const char* name(EndReason reason);

struct Packet {
  std::vector<std::byte> bytes;
  std::vector<int> fds;  // borrowed from the message
};
Packet encode(const Prepare& message);
Packet encode(const Start& message);
Packet encode(const Connect& message);
Packet encode(const Policy& message);
Packet encode(const Mark& message);
Packet encode(const Report& message);
Packet encode(const Ended& message);
Packet encode(const Save& message);
Packet encode(const Saved& message);
Packet encode(const RecordPages& message);
Packet encode(const PagesRecorded& message);
Packet encode_plain(MessageType type);  // those without fields

// The type of a received packet; an error when it is empty or unknown.
Result<MessageType> type_of(std::span<const std::byte> bytes);
// Each takes the whole packet and, where descriptors belong to it, takes them over.
Result<Prepare> decode_prepare(std::span<const std::byte> bytes, std::vector<Fd> fds);
Result<Start> decode_start(std::span<const std::byte> bytes, std::vector<Fd> fds);
Result<Connect> decode_connect(std::span<const std::byte> bytes, std::vector<Fd> fds);
Result<Policy> decode_policy(std::span<const std::byte> bytes);
Result<Mark> decode_mark(std::span<const std::byte> bytes);
Result<Report> decode_report(std::span<const std::byte> bytes);
Result<Ended> decode_ended(std::span<const std::byte> bytes);
Result<Save> decode_save(std::span<const std::byte> bytes, std::vector<Fd> fds);
Result<Saved> decode_saved(std::span<const std::byte> bytes);
Result<RecordPages> decode_record_pages(std::span<const std::byte> bytes, std::vector<Fd> fds);
Result<PagesRecorded> decode_pages_recorded(std::span<const std::byte> bytes);

}  // namespace hutch::protocol::vmm
