#include "vmm/seccomp.h"

#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <span>

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
  // The name is how the test of the tables tells the threads apart.
  ::prctl(PR_SET_NAME, filter.thread_name);
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
    return fail_errno(errno, "giving up new privileges");
  sock_fprog program{static_cast<unsigned short>(filter.program.size()),
                     const_cast<sock_filter*>(filter.program.data())};
  if (::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) < 0)
    return fail_errno(errno, "installing the system call filter",
                      "the host kernel needs CONFIG_SECCOMP_FILTER");
  return {};
}

}  // namespace hutch::vmm
