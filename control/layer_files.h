// Files of frozen layers (hutch.h) that are to outlive their machine.
#pragma once

#include <string>
#include <vector>

#include "base/fd.h"

namespace hutch::control {

// Gives each file of `layers`, from below, a name in `folder`, or makes a copy there where its file
// system is another; they are there after a power cut.
Result<void> keep_layers(const std::vector<Fd>& layers, const std::string& folder);
// Opens what keep_layers() left, for reading.
Result<std::vector<Fd>> open_layers(const std::string& folder);

}  // namespace hutch::control
