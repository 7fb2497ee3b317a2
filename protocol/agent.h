// The agent protocol: what the host and the agent inside the guest say to each other.
//
// One byte stream (vsock, or TCP to the emulated machine) carries frames: a header of 12 bytes and
// a payload of at most 64 KiB. `channel` 0 is the connection itself; any other number is one
// operation: a process or a file transfer. The host chooses the number and uses it once in the life
// of a connection, at most kMaxChannels of them at a time. All frames stay in order.
//
//   host                                   agent
//   Hello             ->
//                     <-                   HelloReply
//   Spawn        [7]  ->
//                     <-                   Started [7]              or Failed [7], the end of 7
//   Input        [7]  ->                                            InputEnd closes its stdin
//                     <-                   Output [7] stream 1 or 2, OutputEnd at its end of file
//                     <-                   Exited [7]
//
// Flow control: each direction of each stream starts with kInitialCredit bytes. The sender of data
// spends it; the receiver gives back with Credit (to the agent) or InputCredit (to the host) when
// it has passed bytes on. Data beyond the credit is a protocol error: the host drops the agent, the
// agent drops the host.
//
// Exited is sent once the process itself is gone and all that its pipes or terminal held at that
// moment has been sent; it does not wait for children that keep them open. Output may follow it as
// long as such children write; OutputEnd says that no more can come. Close lets the agent forget
// the channel: it kills the process group if the process still runs, and sends nothing more of the
// channel. A channel is over, without Close, after Failed, after Done, and after Exited and the
// OutputEnd of each of its streams. What the host still says to a channel that is over is dropped.
// A connection that ends closes its channels.
//
// A Spawn of the agent's own program (agent_program) starts a further mode of it, named by the
// first argument. Such a process has, as its descriptor kServiceDescriptor, a connection to the
// agent that speaks this protocol; what it asks is done as the process's own user, and it cannot
// end the guest.
//
// A machine can be saved while its agent is up, and restored many times. Before, the host says
// Freeze: all processes stop running. In the restored machine the connection is gone; the agent
// dials anew, and the Hello of the new connection says who the machine is from now on. Only once
// all of that is in place do the processes run again, and HelloReply is sent. With `adopt` the
// machine's service (the process of the agent's own program in the mode `rpc`) lives on as channel
// kAdoptedChannel of the new connection, as if it had just started there; whatever else ran on the
// old connection is closed.
//
//   host                                   agent
//   Freeze            ->
//                     <-                   Frozen
//     ... the machine is saved, and restored: a new connection ...
//   Hello             ->                   sets the identity, thaws
//                     <-                   HelloReply
//     ... the saved machine itself goes on instead ...
//   Thaw              ->
//                     <-                   Thawed
//
// A process with a terminal has one output, stream 1; InputEnd types the end-of-file character.
// Input that nobody reads any more is dropped and its credit given back.
//
// The host treats every byte from the agent as guest-controlled: a FrameReader bounds the payload
// before it is buffered, and decoding never trusts a count.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/wire.h"

namespace hutch::protocol::agent {

constexpr uint32_t kVersion = 3;
constexpr uint32_t kMaxPayload = 64 * 1024;
constexpr uint32_t kInitialCredit = 256 * 1024;
// Operations at once on one connection; a request above it is answered with Failed (EAGAIN).
constexpr uint32_t kMaxChannels = 1024;
// The channel of a service that a Hello adopted. A host that may adopt gives it to nothing else.
constexpr uint32_t kAdoptedChannel = 1;
// The mode of the agent's own program, arguments[0], that can be adopted.
constexpr const char* kAdoptedMode = "rpc";
// vsock: the agent dials this port of the host (CID 2) when it is up; it is the only one that the
// VMM answers.
constexpr uint32_t kHostPort = 1024;
// What an agent that is connected to prints, with its port, once it can be.
constexpr std::string_view kListeningLine = "hutch-agent: listening on port ";
// I/O port on which the agent, as PID 1, reports that it runs: it writes the byte kInitMark first
// of all.
constexpr uint16_t kBootMarkPort = 0x2e0;
constexpr uint8_t kInitMark = 1;

// Where a process of the agent's own program finds its connection to the agent.
constexpr int kServiceDescriptor = 3;

enum class FrameType : uint8_t {
  // From the host.
  kHello = 1,
  kSpawn = 2,
  kInput = 3,     // payload: bytes for stdin, or of the file being written
  kInputEnd = 4,  // no payload
  kSignal = 5,    // to the process group
  kResize = 6,    // without effect on a process that has no terminal
  kCredit = 7,
  kReadFile = 8,   // answered by Output stream 1 ..., then Done; or Failed
  kWriteFile = 9,  // answered by Started, then takes Input ..., InputEnd; then Done; or Failed
  kShutdown = 10,  // channel 0; the guest powers itself off or reboots
  kClose = 11,     // no payload
  kFreeze = 12,    // channel 0, no payload: stop every process; answered by Frozen
  kThaw = 13,      // channel 0, no payload: let them run again; answered by Thawed
  // From the agent.
  kHelloReply = 65,
  kStarted = 66,
  kFailed = 67,
  kOutput = 68,
  kOutputEnd = 69,
  kExited = 70,
  kInputCredit = 71,
  kDone = 72,
  kFrozen = 73,
  kThawed = 74,
  kRenew = 75,  // channel 0; only to a service of the agent's own program
};

struct FrameHeader {
  le32 payload_size;
  uint8_t type;
  uint8_t reserved[3];  // zero
  le32 channel;
};
static_assert(sizeof(FrameHeader) == 12);

struct Frame {
  FrameType type{};
  uint32_t channel = 0;
  std::vector<std::byte> payload;
};

// Encodes one frame. The payload must not exceed kMaxPayload.
std::vector<std::byte> encode_frame(FrameType type, uint32_t channel,
                                    std::span<const std::byte> payload = {});

// Cuts a byte stream into frames. Holds at most one frame; input is peer-controlled.
class FrameReader {
 public:
  // Takes bytes off the front of `input` and returns a frame as soon as one is complete; nothing
  // when all of `input` was taken without completing one. Errors: a payload above kMaxPayload, an
  // unknown type, non-zero reserved bytes. After an error the stream is of no use.
  Result<std::optional<Frame>> next(std::span<const std::byte>& input);

 private:
  std::vector<std::byte> buffer_;
};

struct Hello {
  uint32_t version = kVersion;
  uint64_t realtime_ns = 0;  // CLOCK_REALTIME to set; 0: leave the clock
  std::string entropy;       // at most 512 random bytes for the guest kernel's pool; may be empty
  std::string hostname;      // empty: leave it
  std::string token;         // shared secret where the transport does not authenticate; else empty
  // Who the machine is from now on; what is empty stays as it is.
  std::string machine_id;  // 32 hexadecimal digits
  std::string boot_id;     // the text of a UUID
  std::string mac;         // 6 bytes, of the network device
  bool adopt = false;      // keep the service of the connection before
  // "NAME=value": what the adopted service gives to processes that it starts from now on, in place
  // of its own values of these names.
  std::vector<std::string> service_environment;
};

struct HelloReply {
  uint32_t version = kVersion;
  std::string kernel;     // release of the guest kernel
  bool reseeded = false;  // the entropy was added, and the kernel's generator seeded anew from it
  bool adopted = false;   // the service lives and is kAdoptedChannel, with fresh credit both ways
  // What of the identity could not be set; empty: all of it was. A machine that was frozen stays
  // so, and the agent ends the connection.
  std::string problem;
};

struct Spawn {
  std::vector<std::string> arguments;    // the program (looked up in PATH) and its arguments
  std::vector<std::string> environment;  // "NAME=value", on top of the user's default environment
  std::string working_directory;         // empty: the user's home, "/" where that is missing
  std::string user;                      // name or number; empty: root
  bool terminal = false;                 // a PTY, all output is stream 1
  bool open_input = false;               // false: stdin is /dev/null
  uint16_t rows = 0, columns = 0;        // of the terminal
  // Executes the agent itself instead of looking arguments[0] up.
  bool agent_program = false;
  // Leaves the user's default environment out; arguments[0] is still found without a PATH of its
  // own.
  bool clear_environment = false;
  uint16_t file_mask = 022;  // its umask, at most 0777
};

struct Started {
  uint32_t process_id = 0;  // 0 for a file
};

// What failed, so that the command line can tell 126 and 127 from its own failure.
enum class FailureStage : uint8_t {
  kRequest = 1,
  kUser = 2,
  kDirectory = 3,
  kExecute = 4,
  kFile = 5
};
struct Failed {
  FailureStage stage = FailureStage::kRequest;
  uint32_t error_number = 0;  // Linux errno, 0 when there is none
  std::string message;        // for a person: what failed and why
};

struct Signal {
  uint32_t number = 0;
};

struct Resize {
  uint16_t rows = 0, columns = 0;
};

// To the agent: `bytes` more of output stream 1 or 2.
struct Credit {
  uint8_t stream = 1;
  uint32_t bytes = 0;
};

// To the host: `bytes` more of input.
struct InputCredit {
  uint32_t bytes = 0;
};

struct Output {
  uint8_t stream = 1;
  std::span<const std::byte> bytes;  // points into the frame
};

struct OutputEnd {
  uint8_t stream = 1;
};

struct Exited {
  bool signaled = false;
  uint32_t value = 0;          // exit status, or the signal's number
  bool out_of_memory = false;  // the kernel killed a process of the group for memory
};

// Both act with the rights of `user` (as in Spawn); a relative path starts in that user's home.
struct ReadFile {
  std::string path;
  std::string user;
  uint64_t offset = 0;
  uint64_t limit = UINT64_MAX;
};

struct WriteFile {
  std::string path;
  std::string user;
  uint32_t mode = 0644;  // of a file that is created, exactly
  bool append = false;
  bool create_new = false;  // fail when it exists
};

struct Done {
  uint64_t size = 0;  // bytes transferred
};

// Why not every process stopped, in which case all of them run again; empty: they have stopped.
struct Frozen {
  std::string problem;
};

// Why some may not run again; empty: they do.
struct Thawed {
  std::string problem;
};

// To a service: variables "NAME=value" for the processes that it starts from now on.
struct Renew {
  std::vector<std::string> environment;
};

enum class ShutdownKind : uint8_t { kPowerOff = 1, kReboot = 2 };
struct Shutdown {
  ShutdownKind kind = ShutdownKind::kPowerOff;
};

std::vector<std::byte> encode(const Hello& message);
std::vector<std::byte> encode(const HelloReply& message);
std::vector<std::byte> encode(const Spawn& message);
std::vector<std::byte> encode(const Started& message);
std::vector<std::byte> encode(const Failed& message);
std::vector<std::byte> encode(const Signal& message);
std::vector<std::byte> encode(const Resize& message);
std::vector<std::byte> encode(const Credit& message);
std::vector<std::byte> encode(const InputCredit& message);
std::vector<std::byte> encode(const Output& message);
std::vector<std::byte> encode(const OutputEnd& message);
std::vector<std::byte> encode(const Exited& message);
std::vector<std::byte> encode(const ReadFile& message);
std::vector<std::byte> encode(const WriteFile& message);
std::vector<std::byte> encode(const Done& message);
std::vector<std::byte> encode(const Shutdown& message);
std::vector<std::byte> encode(const Frozen& message);
std::vector<std::byte> encode(const Thawed& message);
std::vector<std::byte> encode(const Renew& message);

// Decodes a payload; an error says which field is out of its range. T is one of the messages above.
// What it does not look at, such as a zero byte in a path, the agent answers with Failed.
template <typename T>
Result<T> decode(std::span<const std::byte> payload);

// The version that a Hello or HelloReply begins with, whatever its layout is behind that; 0 where
// even that is missing.
uint32_t version_of(std::span<const std::byte> payload);

}  // namespace hutch::protocol::agent
