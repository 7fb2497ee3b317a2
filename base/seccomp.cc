#include "base/seccomp.h"

#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

namespace hutch {

Result<void> install_seccomp_filter(const char* name, std::span<const sock_filter> program) {
  // The name is how the test of the tables tells the threads apart.
  ::prctl(PR_SET_NAME, name);
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
    return fail_errno(errno, "giving up new privileges");
  sock_fprog filter{static_cast<unsigned short>(program.size()),
                    const_cast<sock_filter*>(program.data())};
  if (::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter) < 0)
    return fail_errno(errno, "installing the system call filter",
                      "the host kernel needs CONFIG_SECCOMP_FILTER");
  return {};
}

}  // namespace hutch
