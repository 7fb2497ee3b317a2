// Templates: machines that were saved once their service answered. A sandbox of the same shape is
// forked from one instead of being booted: it maps the saved memory copy-on-write.
//
// The first sandbox of a shape boots, is saved before its creator has it, and goes on. What this
// server saved is forked from at once. For servers to come, a template is a folder that is there
// whole or not at all, and sealed (seal.h): what an earlier server left is used once its files have
// been read and are as they were. Whatever changes a machine (kernel,
// images, programs, CPUs, memory, network) is in its name, so what was built anew is saved anew,
// and what was saved before that is removed.
#pragma once

#include <boost/asio/io_context.hpp>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "artefacts/artefacts.h"
#include "base/fd.h"
#include "control/background.h"
#include "control/seal.h"

namespace hutch::control {

// What machines of one template have in common.
struct Shape {
  uint64_t memory = 0;  // bytes
  uint32_t cpus = 0;
  bool network = false;
  bool ipv6 = false;
  // The first one's identity is still in the template: others must not find it.
  std::string organisation;
};

class Draft;

struct Template {
  Fd memory, state;        // read only
  std::vector<Fd> layers;  // read only: frozen ones of the writable disk, from below
  SealKey key{};
  Fd pages;                      // those that a fork's first command writes to; none: not known
  std::shared_ptr<Draft> owner;  // whose end removes the files; null: they stay
};

// What lies in a folder. Throws std::runtime_error.
std::shared_ptr<Template> open_saved(const std::string& folder, const SealKey& key);

// One that is being made: its files, empty, for writing.
class Draft {
 public:
  explicit Draft(std::string folder);
  // Removes what is not finished.
  ~Draft();
  Draft(const Draft&) = delete;
  Draft& operator=(const Draft&) = delete;

  // Its files have another folder from now on, and stay. Throws std::runtime_error.
  void move_to(const std::string& folder);
  const std::string& folder() const { return folder_; }

  Fd memory, state;
  std::vector<Fd> layers;  // once it has been saved: its disk's; not files of the folder yet

 private:
  std::string folder_;  // empty: it has none any more
};

class Templates {
 public:
  // In `folder`, which is made when it is missing; what is unfinished in there is removed. With
  // `on` false none are made for shapes. Throws std::runtime_error. Its end waits for those that
  // are being finished.
  Templates(boost::asio::io_context& context, std::string folder, const artefacts::Parts& parts,
            bool on);
  // Null: there is none, or it is not saved or not checked yet.
  std::shared_ptr<const Template> find(const Shape& shape) const;
  // Nothing when there is one, when somebody else makes it, or when it cannot be.
  std::unique_ptr<Draft> begin(const Shape& shape);
  // One for a machine of its own, which is gone with its last user. Throws std::runtime_error.
  std::unique_ptr<Draft> begin_own();
  // Throws std::runtime_error.
  std::shared_ptr<const Template> finish_own(std::unique_ptr<Draft> draft) const;
  // The draft's machine has been saved: it is found from now on, and kept for the next server once
  // it is settled.
  void finish(const Shape& shape, std::unique_ptr<Draft> draft);
  // The draft will not be one.
  void give_up(const Shape& shape, std::unique_ptr<Draft> draft);
  // True: a fork of this shape's template is to record the pages that it has written to by now, and
  // to say so with keep_pages(). Once at a time, and not when they are known.
  bool wants_pages(const Shape& shape);
  // Of forks to come; not open: there is nothing to keep.
  void keep_pages(const Shape& shape, Fd pages);
  // It does not work: it is removed, and not made again by this server.
  void discard(const Shape& shape);
  // Calls `done` once none of this shape is being made, checked or put on the disk, perhaps from
  // inside this call: with whether there is one.
  void when_settled(const Shape& shape, std::function<void(bool is_there)> done);
  const std::string& folder() const { return folder_; }
  const SealKey& key() const { return key_; }
  // The name of a file's content, as far as that can be had without reading it.
  static std::string identity_of(const std::string& path);

 private:
  std::string name(const Shape& shape) const;
  std::shared_ptr<Template> open_draft(const Draft& draft) const;
  void check_next();
  void remove(const std::string& name);
  void settled(const std::string& name);

  std::string folder_;
  std::string identity_;  // of all that goes into a machine
  bool on_;
  SealKey key_{};
  std::map<std::string, std::shared_ptr<Template>> usable_;
  std::set<std::string> busy_;          // being made, checked or put on the disk
  std::set<std::string> bad_;           // not to be made
  std::set<std::string> recording_;     // whose pages somebody records
  std::vector<std::string> unchecked_;  // of an earlier server
  std::multimap<std::string, std::function<void(bool)>> waiting_;
  uint64_t own_ = 0;  // that were begun
  Background background_;
};

}  // namespace hutch::control
