#include "control/snapshots.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <cstring>
#include <filesystem>
#include <stdexcept>

#include "base/log.h"
#include "base/sys.h"
#include "control/ids.h"
#include "control/layer_files.h"
#include "control/private_file.h"

namespace hutch::control {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr const char* kUnfinished = ".new";
constexpr size_t kShortestName = 2, kLongestName = 32;

Problem snapshot_not_found(const std::string& name) {
  return Problem(404, "SNAPSHOT_NOT_FOUND",
                 fmt::format("there is no snapshot {}; `hutch snapshots list` shows those that "
                             "there are",
                             name));
}

Problem no_snapshot(const std::string& why) {
  return Problem(500, "SNAPSHOT_FAILED", "the snapshot cannot be kept: " + why);
}

json to_json(const Snapshot& snapshot, const Snapshots::Host& host) {
  json about{{"id", snapshot.id},
             {"name", snapshot.name},
             {"organisation", snapshot.organisation},
             {"sandbox", snapshot.sandbox_id},
             {"created_ms", snapshot.created_ms},
             {"memory", snapshot.memory},
             {"cpus", snapshot.cpus},
             {"image", host.image},
             {"ipv6", host.ipv6},
             {"allow_all", snapshot.egress && snapshot.egress->allows_all()},
             {"allow_net", nullptr}};
  if (snapshot.egress) about["allow_net"] = snapshot.egress->patterns();
  return about;
}

}  // namespace

Snapshot parse_snapshot(const json& about) {
  Snapshot snapshot;
  for (const char* number : {"created_ms", "memory", "cpus"})
    if (!about.at(number).is_number_integer())
      throw std::runtime_error(fmt::format("{} is no whole number", number));
  about.at("id").get_to(snapshot.id);
  about.at("name").get_to(snapshot.name);
  about.at("organisation").get_to(snapshot.organisation);
  about.at("sandbox").get_to(snapshot.sandbox_id);
  about.at("created_ms").get_to(snapshot.created_ms);
  about.at("memory").get_to(snapshot.memory);
  about.at("cpus").get_to(snapshot.cpus);
  if (about.at("allow_all").get<bool>()) {
    snapshot.egress = policy::Policy::all();
  } else if (!about.at("allow_net").is_null()) {
    snapshot.egress =
        value_or_throw(policy::Policy::parse(about["allow_net"].get<std::vector<std::string>>()));
  }
  return snapshot;
}

Snapshots::Snapshots(boost::asio::io_context& context, std::string folder, const SealKey& key,
                     Host host, size_t most)
    : folder_(std::move(folder)),
      key_(key),
      host_(std::move(host)),
      most_(most),
      background_(context) {
  std::error_code error;
  fs::create_directories(folder_, error);
  if (error || ::chmod(folder_.c_str(), 0700) < 0)
    throw std::runtime_error(fmt::format("the folder {} cannot be made: {}", folder_,
                                         error ? error.message() : std::strerror(errno)));
  std::vector<fs::path> found;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder_)) found.push_back(entry);
  for (const fs::path& entry : found) {
    if (entry.extension() == kUnfinished) {
      fs::remove_all(entry, error);
    } else {
      load(entry.filename());
    }
  }
}

void Snapshots::load(const std::string& id) {
  try {
    Snapshot snapshot = parse_snapshot(read_seal(path(id), key_));
    if (snapshot.id != id || !is_snapshot_id(id))
      throw std::runtime_error("its folder has another name than it");
    entries_[id] = {snapshot, true, false};
  } catch (const json::exception&) {
    log_warning("the snapshot {} is left alone: it is of another version of Hutch", path(id));
  } catch (const std::exception& error) {
    log_warning("the snapshot {} is left alone: {}", path(id), error.what());
  }
}

void Snapshots::claim(const Snapshot& snapshot) {
  if (!snapshot.name.empty() && !is_snapshot_name(snapshot.name))
    throw Problem(400, "INVALID_SLUG",
                  fmt::format("a snapshot's name has {} to {} lower-case letters, digits and "
                              "single hyphens between them",
                              kShortestName, kLongestName));
  size_t count = 0;
  for (const auto& [id, entry] : entries_) {
    if (entry.snapshot.organisation != snapshot.organisation) continue;
    count++;
    if (!snapshot.name.empty() && entry.snapshot.name == snapshot.name)
      throw Problem(409, "SLUG_ALREADY_IN_USE",
                    fmt::format("there is a snapshot {} already, with the id {}", snapshot.name,
                                entry.snapshot.id));
  }
  if (count >= most_)
    throw Problem(429, "SNAPSHOT_LIMIT_REACHED",
                  fmt::format("the organisation has {} snapshots, and may have {}; delete one, or "
                              "raise max_snapshots",
                              count, most_));
  entries_[snapshot.id] = {snapshot, false, false};
}

void Snapshots::drop_claim(const std::string& id) {
  entries_.erase(id);
}

void Snapshots::keep(const Snapshot& snapshot, const std::shared_ptr<const Template>& saved,
                     Kept done) {
  auto failure = std::make_shared<std::string>();
  background_.run(
      [path = path(snapshot.id), key = key_, about = to_json(snapshot, host_), saved, failure] {
        try {
          Draft& draft = *saved->owner;
          value_or_throw(keep_layers(saved->layers, draft.folder()));
          draft.move_to(path + kUnfinished);
          seal_folder(path + kUnfinished, key, about);
          fs::rename(path + kUnfinished, path);
        } catch (const std::exception& error) {
          *failure = error.what();
          std::error_code ignored;
          fs::remove_all(path + kUnfinished, ignored);
        }
      },
      [this, id = snapshot.id, failure, done = std::move(done)] {
        if (failure->empty()) {
          // What was written is not read again: this server knows what it wrote.
          entries_[id].is_kept = entries_[id].is_checked = true;
          return done(nullptr);
        }
        log_warning("the snapshot {} cannot be kept: {}", id, *failure);
        drop_claim(id);
        Problem problem = no_snapshot(*failure);
        done(&problem);
      });
}

const Snapshot& Snapshots::find(const std::string& organisation, const std::string& name) const {
  for (const auto& [id, entry] : entries_)
    if (entry.is_kept && entry.snapshot.organisation == organisation &&
        (id == name || entry.snapshot.name == name))
      return entry.snapshot;
  throw snapshot_not_found(name);
}

std::vector<Snapshot> Snapshots::list(const std::string& organisation) const {
  std::vector<Snapshot> result;
  for (const auto& [id, entry] : entries_)
    if (entry.is_kept && entry.snapshot.organisation == organisation)
      result.push_back(entry.snapshot);
  std::stable_sort(result.begin(), result.end(), [](const Snapshot& one, const Snapshot& other) {
    return one.created_ms > other.created_ms;
  });
  return result;
}

void Snapshots::open(const Snapshot& snapshot, Opened done) {
  struct Result {
    std::shared_ptr<const Template> saved;
    std::string failure;
  };
  auto result = std::make_shared<Result>();
  bool is_checked = entries_[snapshot.id].is_checked;
  auto work = [path = path(snapshot.id), key = key_, host = host_, is_checked, result] {
    try {
      json about = read_seal(path, key);
      if (about.at("image") != host.image)
        throw std::runtime_error(
            "its machine has another root image than this server gives its sandboxes; start the "
            "server with the image that it had");
      if (about.at("ipv6") != host.ipv6 && !about.at("allow_net").is_null())
        throw std::runtime_error(host.ipv6 ? "its machine has no IPv6, and the server has ipv6 on"
                                           : "its machine has IPv6, and the server has ipv6 off");
      if (!is_checked) check_sealed_files(path, key);
      result->saved = open_saved(path, key);
    } catch (const std::exception& error) {
      result->failure = error.what();
    }
  };
  background_.run(work, [this, id = snapshot.id, result, done = std::move(done)] {
    if (result->saved) {
      auto entry = entries_.find(id);
      if (entry != entries_.end()) entry->second.is_checked = true;
      return done(std::move(result->saved), nullptr);
    }
    log_warning("the snapshot {} is of no use: {}", id, result->failure);
    Problem problem(409, "SNAPSHOT_UNUSABLE",
                    fmt::format("the snapshot cannot be restored: {}", result->failure));
    done(nullptr, &problem);
  });
}

void Snapshots::remove(const std::string& organisation, const std::string& name) {
  std::string id = find(organisation, name).id;
  // At once as far as anybody sees; its bytes go in their own time.
  std::error_code error;
  fs::rename(path(id), path(id) + kUnfinished, error);
  if (error)
    throw Problem(500, "SNAPSHOT_FAILED",
                  fmt::format("the snapshot cannot be removed: {}", error.message()));
  entries_.erase(id);
  background_.run(
      [path = path(id) + kUnfinished] {
        std::error_code ignored;
        fs::remove_all(path, ignored);
      },
      [] {});
}

bool is_snapshot_name(std::string_view text) {
  auto is_good = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
  };
  return text.size() >= kShortestName && text.size() <= kLongestName &&
         std::all_of(text.begin(), text.end(), is_good) && !text.starts_with('-') &&
         !text.ends_with('-') && text.find("--") == std::string_view::npos;
}

}  // namespace hutch::control
