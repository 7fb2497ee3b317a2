// Who a machine is to the programs in it: the identifiers that they take for unique. A machine that
// was restored from a saved one has those of all its siblings, and gets its own.
//
// `root` is the folder in which the machine's files lie, "" for those of the running system; what
// is not there is passed over.
#pragma once

#include <string>

#include "base/result.h"

namespace hutch::agent {

// Writes /etc/machine-id, and /run/machine-id where there is one.
Result<void> renew_machine_id(const std::string& root, const std::string& machine_id);
// Writes /etc/hostname, and in /etc/hosts the name in the place of the one that was there, so that
// it stands for an address; in place of none, a line more. A file of hosts that is none, or larger
// than 1 MiB, stays as it is.
Result<void> rename_host(const std::string& root, const std::string& name);
// Lets /proc/sys/kernel/random/boot_id of the running system say `boot_id`: a file in /run, a
// tmpfs, is mounted over it. A container with a /proc of its own still sees the kernel's.
Result<void> renew_boot_id(const std::string& boot_id);
// Removes the keys that the machine's SSH server shows to clients; it makes new ones when it
// starts.
Result<void> remove_host_keys(const std::string& root);

}  // namespace hutch::agent
