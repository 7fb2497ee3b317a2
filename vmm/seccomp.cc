#include "vmm/seccomp.h"

#include <span>

#include "base/seccomp.h"
#include "vmm/seccomp_block.h"
#include "vmm/seccomp_main.h"
#include "vmm/seccomp_network.h"
#include "vmm/seccomp_vcpu.h"

namespace hutch::vmm {
namespace {

struct Filter {
  const char* thread_name;
  std::span<const sock_filter> program;
};

Filter filter_of(ThreadKind kind) {
  switch (kind) {
    case ThreadKind::kMain:
      return {"hutch-main", kMainFilter};
    case ThreadKind::kVcpu:
      return {"hutch-vcpu", kVcpuFilter};
    case ThreadKind::kBlock:
      return {"hutch-block", kBlockFilter};
    case ThreadKind::kNetwork:
      return {"hutch-network", kNetworkFilter};
  }
  return {"hutch-main", kMainFilter};
}

}  // namespace

const char* name(ThreadKind kind) {
  return filter_of(kind).thread_name;
}

Result<void> install_seccomp(ThreadKind kind) {
  Filter filter = filter_of(kind);
  return install_seccomp_filter(filter.thread_name, filter.program);
}

}  // namespace hutch::vmm
