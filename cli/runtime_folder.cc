#include "cli/runtime_folder.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "cli/failure.h"

namespace hutch::cli {

std::string runtime_folder() {
  const char* chosen = std::getenv("HUTCH_RUNTIME");
  std::string folder =
      chosen != nullptr && *chosen == '/' ? chosen : fmt::format("/tmp/hutch-{}", ::getuid());
  if (::mkdir(folder.c_str(), 0700) < 0 && errno != EEXIST)
    throw Failure(fail_errno(errno, fmt::format("making the folder {}", folder)).value());
  struct stat status {};
  if (::lstat(folder.c_str(), &status) < 0)
    throw Failure(fail_errno(errno, fmt::format("looking at {}", folder)).value());
  if (!S_ISDIR(status.st_mode) || status.st_uid != ::getuid() || (status.st_mode & 077) != 0)
    throw Failure("permission", fmt::format("{} is not a folder of yours alone", folder),
                  fmt::format("have it removed: rm -r {}", folder));
  return folder;
}

}  // namespace hutch::cli
