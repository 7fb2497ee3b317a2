// RegisterPages: zeroed pages of the VMM's own for the registers of devices, which a guest may be
// given to read. A page each, so that nothing else of the VMM's can lie in them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/result.h"

namespace hutch {

class RegisterPages {
 public:
  static constexpr size_t kPageSize = 4096;

  RegisterPages() = default;
  // Errors: ENOMEM.
  static Result<RegisterPages> create(size_t count);
  RegisterPages(RegisterPages&& other) noexcept;
  RegisterPages& operator=(RegisterPages&& other) noexcept;
  ~RegisterPages();

  std::span<std::byte> all() const { return pages_; }
  // Nothing when there are none.
  std::span<std::byte> page(size_t index) const;

 private:
  explicit RegisterPages(std::span<std::byte> pages) : pages_(pages) {}
  std::span<std::byte> pages_;
};

}  // namespace hutch
