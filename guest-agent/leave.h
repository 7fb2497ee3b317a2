// The orderly end of a guest's file systems.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace hutch::agent {

// The mount points of a /proc/self/mountinfo, the last mounted first.
std::vector<std::string> mount_points(std::string_view mountinfo);

// Kills every process, waits until they are gone, and unmounts what can be unmounted, so that disks
// of the host's are left clean; what is still used is made read-only. PID 1 only, as its last act.
void leave_file_systems();

}  // namespace hutch::agent
