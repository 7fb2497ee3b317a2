#include "control/free_space.h"

#include <sys/statvfs.h>

#include <cerrno>
#include <cstring>

#include "base/log.h"
#include "control/problem.h"

namespace hutch::control {

void check_free_space(const std::string& folder, int64_t reserve_mb) {
  struct statvfs status {};
  if (::statvfs(folder.c_str(), &status) < 0) {
    log_error("asking for the free space of {}: {}", folder, std::strerror(errno));
    throw Problem(500, "SANDBOX_START_FAILED", "the server cannot tell how much disk it has left");
  }
  uint64_t free_mb = status.f_bavail * status.f_frsize >> 20;
  if (free_mb >= static_cast<uint64_t>(reserve_mb)) return;
  log_warning("{} has {} MiB free, less than disk_reserve_mb ({})", folder, free_mb, reserve_mb);
  throw Problem(503, "DISK_LIMIT_REACHED",
                "the server has too little disk left for another sandbox; end some");
}

}  // namespace hutch::control
