// Kvm: the KVM device, and the typed ioctl call that the room shares.
//
// The room wraps the kernel's interface (Documentation/virt/kvm/api.rst) one to one and has no
// policy: what a machine looks like is decided on the floors above.
#pragma once

#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <cstdint>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace hutch::kvm {

// One ioctl; EINTR is repeated. Returns what the call returned. `name` is for the error message.
template <typename... Argument>
Result<int> control(int fd, unsigned long request, const char* name, Argument... argument) {
  for (;;) {
    int status = ::ioctl(fd, request, argument...);
    if (status >= 0) return status;
    if (errno != EINTR) return fail_errno(errno, name);
  }
}

class Vm;

class Kvm {
 public:
  // Takes an open /dev/kvm. Errors: not KVM, or an API version that Linux never changed since 2007.
  static Result<Kvm> create(Fd device);

  // KVM_CHECK_EXTENSION: 0 when the capability is missing.
  int capability(int number) const;
  // KVM_GET_SUPPORTED_CPUID.
  Result<std::vector<kvm_cpuid_entry2>> supported_cpuid() const;
  // Bytes of the shared run structure of each vCPU.
  size_t run_size() const { return run_size_; }
  int fd() const { return device_.get(); }

 private:
  Kvm(Fd device, size_t run_size) : device_(std::move(device)), run_size_(run_size) {}
  Fd device_;
  size_t run_size_;
};

}  // namespace hutch::kvm
