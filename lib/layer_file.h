// The file of a disk's private layer: it has no name, so it is gone with its last user.
#pragma once

#include <string>

#include "base/fd.h"

namespace hutch::lib {

struct LayerFile {
  Fd file;  // empty, for the one that writes
  Fd view;  // the same file, read-only: for those that share it once it is frozen
};

// In `folder`, whose file system has to have sparse files.
Result<LayerFile> make_layer_file(const std::string& folder);

}  // namespace hutch::lib
