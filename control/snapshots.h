// Snapshots: sandboxes that were saved to be gone on with later, also when they have ended and the
// server was started anew.
//
// Each is a folder of its id, sealed (seal.h): what a fork goes on with (templates.h), and, in the
// seal, whose it is and what its machine was like. Its files are read and checked when the first
// sandbox of this server begins with it.
#pragma once

#include <boost/asio/io_context.hpp>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "control/background.h"
#include "control/channel.h"
#include "control/problem.h"
#include "control/seal.h"
#include "control/templates.h"

namespace hutch::control {

struct Snapshot {
  std::string id;    // snp_REG_ and 20 characters
  std::string name;  // empty: it has none
  std::string organisation;
  std::string sandbox_id;  // of what it was saved from
  int64_t created_ms = 0;  // of the wall clock
  uint64_t memory = 0;     // bytes
  uint32_t cpus = 0;
  std::optional<policy::Policy> egress;  // as then; none: it has no network
};

// Of what is said in a seal. Throws std::exception when that is not what this version writes.
Snapshot parse_snapshot(const nlohmann::json& about);

class Snapshots {
 public:
  // What a new machine has to do with: another one of these, and no snapshot fits.
  struct Host {
    std::string image;  // identity of the root image and of what lies under the writable layer
    bool ipv6 = false;
  };
  using Kept = std::function<void(const Problem* problem)>;
  // Either of both.
  using Opened = std::function<void(std::shared_ptr<const Template> saved, const Problem* problem)>;

  // In `folder`, which is made when it is missing, beside that of `templates`. Unfinished ones are
  // removed; one that is damaged stays, and the log says so. Throws std::runtime_error.
  Snapshots(boost::asio::io_context& context, std::string folder, const SealKey& key, Host host,
            size_t most);

  // Throws a Problem when there may be no such one: check it before anything is saved. Until then
  // or drop_claim() it counts, and its name is taken.
  void claim(const Snapshot& snapshot);
  void drop_claim(const std::string& id);
  // Makes it of what was saved, for itself alone. Claimed; `done` is called later, once it is on
  // the disk.
  void keep(const Snapshot& snapshot, const std::shared_ptr<const Template>& saved, Kept done);

  // By its id or name. Throws a Problem: it is not there, or another organisation's.
  const Snapshot& find(const std::string& organisation, const std::string& name) const;
  // The newest first.
  std::vector<Snapshot> list(const std::string& organisation) const;
  // What sandboxes begin with. Its first use takes the time that it takes to read it; `done` is
  // called later.
  void open(const Snapshot& snapshot, Opened done);
  // Sandboxes that have begun with it go on. Throws a Problem.
  void remove(const std::string& organisation, const std::string& name);

 private:
  struct Entry {
    Snapshot snapshot;
    bool is_kept = false;     // it is on the disk
    bool is_checked = false;  // its files were read, and are as they were sealed
  };
  std::string path(const std::string& id) const { return folder_ + "/" + id; }
  void load(const std::string& id);

  std::string folder_;
  SealKey key_;
  Host host_;
  size_t most_;
  std::map<std::string, Entry> entries_;
  Background background_;
};

// Lower-case letters, digits and single hyphens inside: 2 to 32 characters.
bool is_snapshot_name(std::string_view text);

}  // namespace hutch::control
