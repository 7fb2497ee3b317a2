// Users and groups of the guest, from its /etc/passwd and /etc/group (passwd(5), group(5)).
//
// Read directly: a static program cannot load the C library's name service modules. The files
// belong to the guest's root, so they are read as regular files only, bounded in size, and lines
// that do not parse are passed over, as the C library does.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace hutch::agent {

struct Account {
  std::string name;
  uid_t user = 0;
  gid_t group = 0;
  std::vector<gid_t> groups;  // supplementary, at most 65536, without duplicates
  std::string home = "/";
  std::string shell = "/bin/sh";
};

// Looks `user` up by name, else by number; empty means root. A number that has no entry is an
// account of its own: group of the same number, home "/". root needs no entry either. `folder`
// holds `passwd` and `group`. Errors: there is no such user; a file is there but unreadable.
Result<Account> find_account(std::string_view user, const std::string& folder = "/etc");

}  // namespace hutch::agent
