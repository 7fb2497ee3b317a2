#include "kvm/kvm.h"

#include <cstdlib>
#include <cstring>
#include <memory>

namespace hutch::kvm {

Result<Kvm> Kvm::create(Fd device) {
  int version = TRY(control(device.get(), KVM_GET_API_VERSION, "KVM_GET_API_VERSION"));
  if (version != KVM_API_VERSION)
    return fail(
        fmt::format("the KVM interface has version {}, {} is needed", version, KVM_API_VERSION));
  int run_size = TRY(control(device.get(), KVM_GET_VCPU_MMAP_SIZE, "KVM_GET_VCPU_MMAP_SIZE"));
  if (static_cast<size_t>(run_size) < sizeof(kvm_run))
    return fail("KVM's run structure is smaller than its definition");
  return Kvm(std::move(device), static_cast<size_t>(run_size));
}

int Kvm::capability(int number) const {
  return control(device_.get(), KVM_CHECK_EXTENSION, "KVM_CHECK_EXTENSION", number).value_or(0);
}

Result<std::vector<kvm_cpuid_entry2>> Kvm::supported_cpuid() const {
  constexpr uint32_t kEntries = 256;
  auto size = sizeof(kvm_cpuid2) + kEntries * sizeof(kvm_cpuid_entry2);
  std::unique_ptr<kvm_cpuid2, decltype(&std::free)> list(
      static_cast<kvm_cpuid2*>(std::calloc(1, size)), &std::free);
  if (!list) return fail_errno(ENOMEM, "allocating the CPUID list");
  list->nent = kEntries;
  TRY(control(device_.get(), KVM_GET_SUPPORTED_CPUID, "KVM_GET_SUPPORTED_CPUID", list.get()));
  return std::vector<kvm_cpuid_entry2>(list->entries, list->entries + list->nent);
}

}  // namespace hutch::kvm
