// Templates: machines that were saved once their service answered. A sandbox of the same shape is
// forked from one instead of being booted: it maps the saved memory copy-on-write.
//
// The first sandbox of a shape boots, is saved before its creator has it, and goes on. A template
// is a folder that is there whole or not at all; whatever changes a machine (kernel, images,
// programs, CPUs, memory, network) is in its name, so what was built anew is saved anew.
#pragma once

#include <array>
#include <boost/asio/io_context.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "artefacts/artefacts.h"
#include "base/fd.h"

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

struct Template {
  Fd memory, state;        // read only
  std::vector<Fd> layers;  // read only: frozen ones of the writable disk, from below
  std::array<uint8_t, 16> key{};
  std::shared_ptr<void> owner;  // whose end removes the files; null: they stay
};

// One that is being made: its files, empty, for writing.
class Draft {
 public:
  Draft(std::string folder, std::string target);
  // Removes what is not finished.
  ~Draft();
  Draft(const Draft&) = delete;
  Draft& operator=(const Draft&) = delete;

  // Makes it a template, on a thread of its own: its files are on their way to the disk for long.
  // Logs when that fails.
  static void finish(std::unique_ptr<Draft> draft, std::function<void()> done);

  Fd memory, state;
  std::vector<Fd> layers;  // once it has been saved: its disk's

 private:
  Result<void> keep();

  std::string folder_, target_;
};

class Templates {
 public:
  // In `folder`, which is made when it is missing; what is unfinished in there is removed. With
  // `on` false none are made for shapes. Throws std::runtime_error.
  Templates(boost::asio::io_context& context, std::string folder, const artefacts::Parts& parts,
            bool on);
  // Waits for those that are being finished.
  ~Templates();

  std::optional<Template> find(const Shape& shape) const;
  // Nothing when there is one, when somebody else makes it, or when it cannot be.
  std::unique_ptr<Draft> begin(const Shape& shape);
  // One for a machine of its own, which is gone with its last user. Throws std::runtime_error.
  std::unique_ptr<Draft> begin_own();
  std::shared_ptr<const Template> finish_own(std::unique_ptr<Draft> draft) const;
  // The draft's machine has been saved.
  void finish(const Shape& shape, std::unique_ptr<Draft> draft);
  // The draft will not be one.
  void give_up(const Shape& shape, std::unique_ptr<Draft> draft);
  // It does not work: it is removed, and not made again by this server.
  void discard(const Shape& shape);
  const std::array<uint8_t, 16>& key() const { return key_; }

 private:
  std::string name(const Shape& shape) const;

  boost::asio::io_context& context_;
  std::string folder_;
  std::string identity_;  // of all that goes into a machine
  bool on_;
  std::array<uint8_t, 16> key_{};
  std::set<std::string> busy_;  // being made, or not to be made
  uint64_t own_ = 0;            // that were begun
  struct Finishing;
  std::shared_ptr<Finishing> finishing_;
};

}  // namespace hutch::control
