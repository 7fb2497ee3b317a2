// The server's data folder, of mode 0700:
//
//   hutch.sqlite  the store
//   token         the token that the printed block has, in clear
//   environment   the block itself
//   tls/          certificates of our own
//   events/       what sandboxes asked of their networks, a file each
//   templates/    saved machines that sandboxes are forked from
//   snapshots/    saved machines that were asked for
//   lock          held by the server that uses the folder
#pragma once

#include <string>

#include "base/fd.h"
#include "control/config.h"
#include "control/store.h"

namespace hutch::control {

class DataFolder {
 public:
  // Makes it when it is missing. Throws std::runtime_error with the cause and what mends it.
  explicit DataFolder(std::string path);

  std::string database() const { return path_ + "/hutch.sqlite"; }
  // Throws when another server has it.
  Fd lock() const;
  // The local token: the one kept here, or, when that is not valid (any more), a new one of the
  // organisation `local`.
  std::string local_token(Store& store) const;
  std::string certificates() const { return path_ + "/tls"; }
  std::string events() const { return path_ + "/events"; }
  // In the emulated machine not in here: its memory cannot be the host's files.
  std::string templates(const std::string& scratch) const;
  std::string snapshots(const std::string& scratch) const;
  // Lines for a shell that lead clients to this server; kept for read_environment(). `authority` is
  // the file that makes clients trust its certificate, empty when they do without.
  std::string write_environment(const Config& config, const std::string& token,
                                const std::string& authority) const;
  // Of the folder `path`, which may not be there.
  static std::string read_environment(const std::string& path);

 private:
  std::string saved(const std::string& what, const std::string& scratch) const;

  std::string path_;
};

}  // namespace hutch::control
