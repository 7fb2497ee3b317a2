#include "lib/layer_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "base/sys.h"

namespace hutch::lib {
namespace {

Result<Fd> create_unlinked(const std::string& folder) {
  constexpr const char* kRemedy = "name a folder that may be written to, with room for the disk";
  Fd file(::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (file) return file;
  // Not every file system can make a file without a name.
  if (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT && errno != EINVAL)
    return fail_errno(errno, fmt::format("making a disk file in {}", folder), kRemedy);
  std::string path = folder + "/hutch-disk-XXXXXX";
  file = Fd(::mkostemp(path.data(), O_CLOEXEC));
  if (!file) return fail_errno(errno, fmt::format("making a disk file in {}", folder), kRemedy);
  if (::unlink(path.c_str()) < 0) return fail_errno(errno, fmt::format("removing {}", path));
  return file;
}

}  // namespace

Result<LayerFile> make_layer_file(const std::string& folder) {
  LayerFile result;
  result.file = TRY(create_unlinked(folder));
  result.view =
      TRY_CONTEXT("a disk file without a name",
                  open_file(fmt::format("/proc/self/fd/{}", result.file.get()), O_RDONLY));
  return result;
}

}  // namespace hutch::lib
