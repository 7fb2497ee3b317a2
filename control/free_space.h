// The disk that sandboxes write to.
#pragma once

#include <cstdint>
#include <string>

namespace hutch::control {

// Throws a Problem when the file system of `folder` has less than `reserve_mb` MiB free for the
// private copies of disks.
void check_free_space(const std::string& folder, int64_t reserve_mb);

}  // namespace hutch::control
