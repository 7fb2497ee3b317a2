#include "vmm/saved_machine.h"

#include <sys/random.h>

#include <cerrno>

#include "base/sys.h"

namespace hutch::vmm {

Result<snapshot::SavedMachine> read_saved(const protocol::vmm::Restore& restore,
                                          const protocol::vmm::Start& start,
                                          std::span<const kvm_cpuid_entry2> cpuid) {
  uint64_t size = TRY(file_size(restore.state.get()));
  if (size > snapshot::kMaxFile)
    return fail(fmt::format("{} bytes of state are more than any machine has", size));
  std::vector<std::byte> file(size);
  TRY(read_exactly_at(restore.state.get(), file, 0));
  std::span<const std::byte> body = TRY(snapshot::open_sealed(file, restore.key));
  snapshot::SavedMachine saved = TRY(snapshot::decode_machine(TRY(snapshot::Fields::parse(body))));
  if (saved.memory != start.memory)
    return fail(fmt::format("it has {} MiB of memory, {} were asked for", saved.memory >> 20,
                            start.memory >> 20));
  if (saved.vcpus.size() != start.cpus)
    return fail(fmt::format("it has {} CPUs, {} were asked for", saved.vcpus.size(), start.cpus));
  auto wanted = std::as_bytes(cpuid);
  if (!std::equal(saved.cpuid.begin(), saved.cpuid.end(), wanted.begin(), wanted.end()))
    return fail("its processors have other features than this host gives",
                "restore it on the kind of host that saved it");
  return saved;
}

Result<void> fill_random(std::span<std::byte> bytes) {
  if (::getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size()))
    return fail_errno(errno, "reading random bytes");
  return {};
}

}  // namespace hutch::vmm
