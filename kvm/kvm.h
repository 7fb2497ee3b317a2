// Kvm: the KVM device, and the typed ioctl call that the room shares.
//
// The room wraps the kernel's interface (Documentation/virt/kvm/api.rst) one to one and has no
// policy: what a machine looks like is decided on the floors above.
#pragma once

#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace hutch::kvm {

// One ioctl; EINTR is repeated. Returns what the call returned. `name` is for the error message.
// Calls without an argument need a zero: KVM refuses anything else.
template <typename Argument>
Result<int> control(int fd, unsigned long request, const char* name, Argument argument) {
  for (;;) {
    int status = ::ioctl(fd, request, argument);
    if (status >= 0) return status;
    if (errno != EINTR) return fail_errno(errno, name);
  }
}

// Lists of CPUID entries and MSRs are a count, 4 bytes of padding, and the entries. The kernel's
// own structures for them have another size in C++ than in C (their empty members take a byte), and
// with it another request number; so the room builds both itself.
struct ListHeader {
  uint32_t count = 0;
  uint32_t padding = 0;
};
constexpr unsigned long kGetSupportedCpuid = _IOWR(KVMIO, 0x05, ListHeader);
constexpr unsigned long kSetCpuid2 = _IOW(KVMIO, 0x90, ListHeader);
constexpr unsigned long kSetMsrs = _IOW(KVMIO, 0x89, ListHeader);

// A list in the kernel's form.
template <typename Entry>
std::vector<std::byte> make_list(std::span<const Entry> entries) {
  ListHeader header{static_cast<uint32_t>(entries.size()), 0};
  std::vector<std::byte> bytes(sizeof header + entries.size_bytes());
  std::memcpy(bytes.data(), &header, sizeof header);
  if (!entries.empty())
    std::memcpy(bytes.data() + sizeof header, entries.data(), entries.size_bytes());
  return bytes;
}

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
