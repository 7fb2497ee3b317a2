// Whether this host's KVM can run guests, found out by running a few instructions in one.
#pragma once

#include <string>

namespace hutch::cli {

struct Probe {
  bool ok = false;
  std::string detail;  // one sentence
};

// Runs `hutch-vmm --probe`.
Probe probe_host();
// The same, but asks once per boot, per user and per hutch-vmm, and remembers the answer in the
// runtime folder.
Probe cached_probe();

}  // namespace hutch::cli
