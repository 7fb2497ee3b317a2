#include "kvm/saved_state.h"

#include <algorithm>
#include <unordered_map>

namespace hutch::kvm {
namespace {

using snapshot::Bytes;
using snapshot::SavedMsr;
using snapshot::SavedVcpu;

// As for the other lists (ListHeader): a count, then the indices, without padding.
constexpr unsigned long kGetMsrIndexList = _IOWR(KVMIO, 0x02, uint32_t);
constexpr unsigned long kGetMsrs = _IOWR(KVMIO, 0x88, ListHeader);
// struct kvm_xsave ends in what it does not count.
constexpr size_t kXsaveSize = 4096;
constexpr unsigned long kSetXsave = _IOW(KVMIO, 0xa5, std::byte[kXsaveSize]);
constexpr unsigned long kGetXsave2 = _IOR(KVMIO, 0xcf, std::byte[kXsaveSize]);
constexpr size_t kMaxXsave = 64 * 1024;
constexpr size_t kMaxMsrs = 1024;

constexpr uint32_t kMsrTimeStampCounter = 0x10;
constexpr uint32_t kMsrTscDeadline = 0x6e0;
constexpr uint32_t kInterruptControllers = 3;

template <typename T>
Bytes bytes_of(const T& object) {
  auto view = std::as_bytes(std::span(&object, 1));
  return {view.begin(), view.end()};
}

template <typename T>
Result<T> object_of(const Bytes& bytes, const char* what) {
  if (bytes.size() != sizeof(T))
    return fail(fmt::format("{} has {} bytes instead of {}", what, bytes.size(), sizeof(T)));
  T object;
  std::memcpy(&object, bytes.data(), sizeof object);
  return object;
}

template <typename T>
Result<Bytes> get(int fd, unsigned long request, const char* name) {
  T object{};
  TRY(control(fd, request, name, &object));
  return bytes_of(object);
}

template <typename T>
Result<void> set(int fd, unsigned long request, const char* name, const Bytes& bytes) {
  T object = TRY(object_of<T>(bytes, name));
  TRY(control(fd, request, name, &object));
  return {};
}

Result<std::vector<uint32_t>> msr_indices(const Kvm& kvm) {
  std::vector<uint32_t> list(1 + kMaxMsrs);
  list[0] = kMaxMsrs;
  TRY(control(kvm.fd(), kGetMsrIndexList, "KVM_GET_MSR_INDEX_LIST", list.data()));
  list.resize(1 + std::min<size_t>(list[0], kMaxMsrs));
  list.erase(list.begin());
  return list;
}

// Those of `indices` that KVM lets be read here.
Result<std::vector<SavedMsr>> read_msrs(const Vcpu& vcpu, std::vector<uint32_t> indices) {
  std::vector<SavedMsr> result;
  while (!indices.empty()) {
    std::vector<kvm_msr_entry> entries;
    for (uint32_t index : indices) entries.push_back({.index = index});
    std::vector<std::byte> list = make_list(std::span<const kvm_msr_entry>(entries));
    int count = TRY(control(vcpu.fd(), kGetMsrs, "KVM_GET_MSRS", list.data()));
    auto read = std::min(static_cast<size_t>(count), entries.size());
    std::memcpy(entries.data(), list.data() + sizeof(ListHeader), read * sizeof entries[0]);
    for (size_t i = 0; i < read; i++) result.push_back({entries[i].index, entries[i].data});
    // It stops in front of one that this machine does not have.
    indices.erase(indices.begin(),
                  indices.begin() + static_cast<ptrdiff_t>(std::min(read + 1, indices.size())));
  }
  return result;
}

Result<void> write_msrs(const Vcpu& vcpu, std::span<const SavedMsr> msrs) {
  if (msrs.empty()) return {};
  std::vector<kvm_msr_entry> entries;
  for (const SavedMsr& msr : msrs) entries.push_back({.index = msr.index, .data = msr.value});
  std::vector<std::byte> list = make_list(std::span<const kvm_msr_entry>(entries));
  int count = TRY(control(vcpu.fd(), kSetMsrs, "KVM_SET_MSRS", list.data()));
  if (static_cast<size_t>(count) < entries.size())
    return fail(
        fmt::format("KVM refuses {:#x} for model-specific register {:#x}",
                    msrs[static_cast<size_t>(count)].value, msrs[static_cast<size_t>(count)].index),
        "restore it on the kind of host that saved it");
  return {};
}

// Only those that differ from what a new vCPU has: many can be read and not written. The counter
// goes first and its deadline last, which means nothing without the counter and the local APIC.
Result<std::vector<SavedMsr>> changed_msrs(const Vcpu& vcpu, std::span<const SavedMsr> saved) {
  if (saved.size() > kMaxMsrs) return fail("too many model-specific registers");
  std::vector<uint32_t> indices;
  for (const SavedMsr& msr : saved) indices.push_back(msr.index);
  std::unordered_map<uint32_t, uint64_t> now;
  for (const SavedMsr& msr : TRY(read_msrs(vcpu, std::move(indices)))) now[msr.index] = msr.value;
  std::vector<SavedMsr> result;
  for (const SavedMsr& msr : saved) {
    auto found = now.find(msr.index);
    bool is_counter = msr.index == kMsrTimeStampCounter;
    if (found == now.end() || is_counter || found->second != msr.value) result.push_back(msr);
  }
  auto rank = [](const SavedMsr& msr) {
    return msr.index == kMsrTimeStampCounter ? 0 : msr.index == kMsrTscDeadline ? 2 : 1;
  };
  std::stable_sort(result.begin(), result.end(), [&](const SavedMsr& left, const SavedMsr& right) {
    return rank(left) < rank(right);
  });
  return result;
}

size_t xsave_size(const Kvm& kvm) {
  auto size = static_cast<size_t>(std::max(kvm.capability(KVM_CAP_XSAVE2), 0));
  return std::clamp(size, kXsaveSize, kMaxXsave);
}

}  // namespace

Result<SavedVcpu> save_vcpu(const Kvm& kvm, const Vcpu& vcpu) {
  const int fd = vcpu.fd();
  SavedVcpu saved;
  kvm_mp_state run_state{};
  TRY(control(fd, KVM_GET_MP_STATE, "KVM_GET_MP_STATE", &run_state));
  saved.run_state = run_state.mp_state;
  saved.registers = bytes_of(TRY(vcpu.registers()));
  saved.special_registers = bytes_of(TRY(vcpu.special_registers()));
  saved.extended_state.resize(xsave_size(kvm));
  TRY(control(fd, kGetXsave2, "KVM_GET_XSAVE2", saved.extended_state.data()));
  saved.extended_controls = TRY(get<kvm_xcrs>(fd, KVM_GET_XCRS, "KVM_GET_XCRS"));
  saved.debug_registers = TRY(get<kvm_debugregs>(fd, KVM_GET_DEBUGREGS, "KVM_GET_DEBUGREGS"));
  saved.local_apic = bytes_of(TRY(vcpu.local_apic()));
  saved.msrs = TRY(read_msrs(vcpu, TRY(msr_indices(kvm))));
  saved.events = TRY(get<kvm_vcpu_events>(fd, KVM_GET_VCPU_EVENTS, "KVM_GET_VCPU_EVENTS"));
  // A host whose counter is unstable tells no rate.
  if (Result<int> rate = control(fd, KVM_GET_TSC_KHZ, "KVM_GET_TSC_KHZ", 0ul))
    saved.tsc_khz = static_cast<uint32_t>(*rate);
  return saved;
}

Result<void> restore_vcpu(const Kvm& kvm, const Vcpu& vcpu, const SavedVcpu& saved) {
  const int fd = vcpu.fd();
  Result<int> rate = control(fd, KVM_GET_TSC_KHZ, "KVM_GET_TSC_KHZ", 0ul);
  if (rate && saved.tsc_khz != 0 && static_cast<uint32_t>(*rate) != saved.tsc_khz)
    TRY_CONTEXT(
        "the saved processor's clock has another rate",
        control(fd, KVM_SET_TSC_KHZ, "KVM_SET_TSC_KHZ", static_cast<unsigned long>(saved.tsc_khz)));
  // The special registers turn on what the others need: long mode, the local APIC's form.
  TRY(set<kvm_sregs>(fd, KVM_SET_SREGS, "KVM_SET_SREGS", saved.special_registers));
  TRY(set<kvm_regs>(fd, KVM_SET_REGS, "KVM_SET_REGS", saved.registers));
  // A processor without XSAVE has none, and KVM takes none.
  auto controls = TRY(object_of<kvm_xcrs>(saved.extended_controls, "KVM_SET_XCRS"));
  if (controls.nr_xcrs != 0) TRY(control(fd, KVM_SET_XCRS, "KVM_SET_XCRS", &controls));
  if (saved.extended_state.size() != xsave_size(kvm))
    return fail(fmt::format("the saved extended state has {} bytes, this host's has {}",
                            saved.extended_state.size(), xsave_size(kvm)),
                "restore it on the kind of host that saved it");
  TRY(control(fd, kSetXsave, "KVM_SET_XSAVE", saved.extended_state.data()));
  TRY(set<kvm_debugregs>(fd, KVM_SET_DEBUGREGS, "KVM_SET_DEBUGREGS", saved.debug_registers));
  TRY(set<kvm_lapic_state>(fd, KVM_SET_LAPIC, "KVM_SET_LAPIC", saved.local_apic));
  TRY(write_msrs(vcpu, TRY(changed_msrs(vcpu, saved.msrs))));
  kvm_mp_state run_state{saved.run_state};
  TRY(control(fd, KVM_SET_MP_STATE, "KVM_SET_MP_STATE", &run_state));
  return set<kvm_vcpu_events>(fd, KVM_SET_VCPU_EVENTS, "KVM_SET_VCPU_EVENTS", saved.events);
}

Result<std::vector<Bytes>> save_interrupt_controllers(const Vm& vm) {
  std::vector<Bytes> saved;
  for (uint32_t id = 0; id < kInterruptControllers; id++) {
    kvm_irqchip chip{};
    chip.chip_id = id;
    TRY(control(vm.fd(), KVM_GET_IRQCHIP, "KVM_GET_IRQCHIP", &chip));
    saved.push_back(bytes_of(chip));
  }
  return saved;
}

Result<void> restore_interrupt_controllers(const Vm& vm, std::span<const Bytes> saved) {
  if (saved.size() != kInterruptControllers) return fail("not all interrupt controllers are saved");
  for (uint32_t id = 0; id < kInterruptControllers; id++) {
    auto chip = TRY(object_of<kvm_irqchip>(saved[id], "an interrupt controller"));
    chip.chip_id = id;
    TRY(control(vm.fd(), KVM_SET_IRQCHIP, "KVM_SET_IRQCHIP", &chip));
  }
  return {};
}

Result<Bytes> save_clock(const Vm& vm) {
  return get<kvm_clock_data>(vm.fd(), KVM_GET_CLOCK, "KVM_GET_CLOCK");
}

Result<void> restore_clock(const Vm& vm, const Bytes& saved) {
  auto clock = TRY(object_of<kvm_clock_data>(saved, "the clock"));
  // Without what KVM would add for the time in between.
  kvm_clock_data wanted{};
  wanted.clock = clock.clock;
  TRY(control(vm.fd(), KVM_SET_CLOCK, "KVM_SET_CLOCK", &wanted));
  return {};
}

}  // namespace hutch::kvm
