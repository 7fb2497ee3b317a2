// Files that are kept open, and read once, so that they stay in memory: the emulated machine keeps
// nothing of a file of the host that nobody has open.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/fd.h"

namespace hutch::bench {

class WarmFiles {
 public:
  // What cannot be opened is passed over: it is not needed either.
  void keep(const std::vector<std::string>& paths);

 private:
  std::map<std::string, Fd> files_;
};

// Copies what has data of a sparse file; `extents` are pairs of offset and size, and where there
// are none the file system is asked. Throws BenchFailure.
void copy_sparse(const std::string& from, const std::string& to,
                 const std::vector<uint64_t>& extents);

}  // namespace hutch::bench
