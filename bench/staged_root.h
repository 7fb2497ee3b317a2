// A root of our own in memory, with copies of all that the turns open: in the emulated machine
// every look at a file goes to the host, over 9p, and waits for it.
#pragma once

#include <string>
#include <vector>

#include "artefacts/artefacts.h"

namespace hutch::bench {

class StagedRoot {
 public:
  // A file system of its own, that nobody else sees and that is gone with this process. Throws
  // BenchFailure, as all here.
  StagedRoot();

  // Copies a file to the same path. `extents` as for copy_sparse.
  void add(const std::string& path, const std::vector<uint64_t>& extents = {});
  // What a machine of ours is started from; `extents` of the layer.
  void add_parts(const artefacts::Parts& parts, const std::vector<uint64_t>& extents);
  // A program, looked up in PATH, with its libraries; its path.
  std::string add_program(const std::string& program);
  // From now on this process, and all that it starts, has it as its root; /dev, /proc, /sys and
  // /run are as before.
  void enter();

 private:
  std::string folder_;
};

// Copies what has data of a sparse file; `extents` are pairs of offset and size, and where there
// are none the file system is asked. Throws BenchFailure.
void copy_sparse(const std::string& from, const std::string& to,
                 const std::vector<uint64_t>& extents);

}  // namespace hutch::bench
