// The ways into a sandbox, as the rest of the control plane sees them: a real machine stands behind
// them (machine_guest.h), or, in tests, none.
//
// All calls, both ways, come from the one thread of the program, and never from inside another
// call of the same object but where this says so.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "policy/policy.h"

namespace hutch::control {

// Bytes of the guest. They count against its credit until they are dropped: holding them slows the
// guest down.
struct GuestBytes {
  std::string_view bytes;
  std::shared_ptr<const void> owner;
};

// What a channel tells. It may be destroyed from inside any of these.
class ChannelEvents {
 public:
  virtual void on_output(GuestBytes bytes) = 0;
  // A write that took less than asked may go on.
  virtual void on_writable() = 0;
  // The guest's side has ended; nothing follows.
  virtual void on_closed() = 0;

 protected:
  ~ChannelEvents() = default;
};

// One connection to the RPC service of a sandbox: a stream of bytes each way (framing.h). Its end
// is the client's end to the service.
class Channel {
 public:
  virtual ~Channel() = default;
  // How many bytes were taken; less than given: on_writable() follows.
  virtual size_t write(std::span<const std::byte> bytes) = 0;
};

// A saved machine: templates.h.
struct Template;

struct GuestOptions {
  std::string sandbox_id;
  std::string organisation;
  uint64_t memory = 0;  // bytes
  uint32_t cpus = 2;
  std::optional<policy::Policy> egress;  // which hosts it may reach; none: no network at all
  // A machine of the same memory, CPUs and network to go on with, with all that ran in it; null:
  // a new one.
  std::shared_ptr<const Template> from;
  bool is_restore = false;  // `from` was a snapshot
};

// How a machine came to be.
enum class Path { kBoot, kFork, kRestore };
constexpr const char* path_name(Path path) {
  return path == Path::kBoot ? "boot" : path == Path::kFork ? "fork" : "restore";
}
struct Way {
  Path path = Path::kBoot;
  bool is_prepared = false;  // in a process of the pool (shells.h), else in one of its own
};
constexpr const char* process_name(const Way& way) {
  return way.is_prepared ? "pool" : "new";
}

// What a guest tells. It may be destroyed from inside these.
class GuestEvents {
 public:
  // The RPC service answers: channels may be opened.
  virtual void on_ready(Way way) = 0;
  // The machine is gone, by end() or otherwise. `reason` is one sentence for a log.
  virtual void on_ended(const std::string& reason) = 0;

 protected:
  ~GuestEvents() = default;
};

class Guest {
 public:
  virtual ~Guest() = default;
  virtual std::unique_ptr<Channel> open_channel(ChannelEvents& events, uint64_t stream_base) = 0;
  // Which hosts it may reach from now on, where it has a network. Throws a Problem.
  virtual void set_policy(const policy::Policy& policy) = 0;
  // Saves the machine as it is, with all that runs in it, and lets it go on. `done` gets null when
  // that fails, also because the machine ends, and the log says why; never from inside this call.
  using Saved = std::function<void(std::shared_ptr<const Template> saved)>;
  virtual void save(Saved done) = 0;
  // Stops its processors and devices where they are, or lets them go on. Called when it serves, and
  // not while it is being saved or the last call is not answered. `done` gets whether it did, or
  // the log says why not; never from inside this call.
  virtual void set_paused(bool paused, std::function<void(bool good)> done) = 0;
  // As a power cut; on_ended() follows.
  virtual void end() = 0;
};

// Starts a machine; throws a Problem when that fails at once.
using GuestFactory =
    std::function<std::unique_ptr<Guest>(const GuestOptions& options, GuestEvents& events)>;

}  // namespace hutch::control
