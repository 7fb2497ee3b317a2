#include "kvm/kvm.h"

#include <algorithm>

namespace hutch::kvm {

Result<Kvm> Kvm::create(Fd device) {
  int version = TRY(control(device.get(), KVM_GET_API_VERSION, "KVM_GET_API_VERSION", 0UL));
  if (version != KVM_API_VERSION)
    return fail(
        fmt::format("the KVM interface has version {}, {} is needed", version, KVM_API_VERSION));
  int run_size = TRY(control(device.get(), KVM_GET_VCPU_MMAP_SIZE, "KVM_GET_VCPU_MMAP_SIZE", 0UL));
  if (static_cast<size_t>(run_size) < sizeof(kvm_run))
    return fail("KVM's run structure is smaller than its definition");
  return Kvm(std::move(device), static_cast<size_t>(run_size));
}

int Kvm::capability(int number) const {
  return control(device_.get(), KVM_CHECK_EXTENSION, "KVM_CHECK_EXTENSION", number).value_or(0);
}

Result<std::vector<kvm_cpuid_entry2>> Kvm::supported_cpuid() const {
  constexpr size_t kMaxEntries = 256;
  std::vector<kvm_cpuid_entry2> entries(kMaxEntries);
  std::vector<std::byte> list = make_list(std::span<const kvm_cpuid_entry2>(entries));
  TRY(control(device_.get(), kGetSupportedCpuid, "KVM_GET_SUPPORTED_CPUID", list.data()));
  ListHeader header;
  std::memcpy(&header, list.data(), sizeof header);
  entries.resize(std::min<size_t>(header.count, kMaxEntries));
  std::memcpy(entries.data(), list.data() + sizeof header, entries.size() * sizeof entries[0]);
  return entries;
}

}  // namespace hutch::kvm
