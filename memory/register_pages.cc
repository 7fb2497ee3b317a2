#include "memory/register_pages.h"

#include <sys/mman.h>

#include <cerrno>
#include <utility>

namespace hutch {

Result<RegisterPages> RegisterPages::create(size_t count) {
  const size_t size = count * kPageSize;
  void* pages = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED) return fail_errno(errno, "reserving pages for the devices' registers");
  return RegisterPages(std::span(static_cast<std::byte*>(pages), size));
}

RegisterPages::RegisterPages(RegisterPages&& other) noexcept
    : pages_(std::exchange(other.pages_, {})) {}

RegisterPages& RegisterPages::operator=(RegisterPages&& other) noexcept {
  std::swap(pages_, other.pages_);
  return *this;
}

RegisterPages::~RegisterPages() {
  if (!pages_.empty()) ::munmap(pages_.data(), pages_.size());
}

std::span<std::byte> RegisterPages::page(size_t index) const {
  if ((index + 1) * kPageSize > pages_.size()) return {};
  return pages_.subspan(index * kPageSize, kPageSize);
}

}  // namespace hutch
