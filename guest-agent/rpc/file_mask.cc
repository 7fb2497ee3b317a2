#include "guest-agent/rpc/file_mask.h"

#include <sys/stat.h>

#include <cstdlib>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "base/sys.h"
#include "guest-agent/rpc/failure.h"

namespace hutch::agent::rpc {
namespace {

std::mutex mutex;
std::optional<mode_t> known;

// From the kernel's word: umask(2) tells the mask only by changing it, which other threads would
// see in the files that they make.
mode_t ask() {
  auto status = hutch::read_file("/proc/self/status", 1 << 16);
  constexpr std::string_view kKey = "\nUmask:";
  size_t at = status ? status->find(kKey) : std::string::npos;
  if (at == std::string::npos) throw Failure("Error", "/proc/self/status does not tell the umask");
  return static_cast<mode_t>(std::strtoul(status->c_str() + at + kKey.size(), nullptr, 8));
}

}  // namespace

mode_t file_mask() {
  std::lock_guard lock(mutex);
  if (!known) known = ask();
  return *known;
}

mode_t set_file_mask(mode_t mask) {
  std::lock_guard lock(mutex);
  mode_t before = ::umask(mask);
  known = mask;
  return before;
}

}  // namespace hutch::agent::rpc
