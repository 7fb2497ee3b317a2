#include "guest-agent/rpc/temporary_folder.h"

#include <cstdlib>
#include <filesystem>

#include "base/log.h"
#include "guest-agent/rpc/failure.h"
#include "guest-agent/rpc/files.h"

namespace hutch::agent::rpc {

TemporaryFolder::TemporaryFolder(const std::string& prefix) : path_("/tmp/" + prefix + "-XXXXXX") {
  if (::mkdtemp(path_.data()) == nullptr) throw_errno(on_path("mkdir", path_));
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code error;
  std::filesystem::remove_all(path_, error);
  if (error) log_warning("removing {}: {}", path_, error.message());
}

}  // namespace hutch::agent::rpc
