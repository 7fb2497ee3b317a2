// Pages for registers: what is shown to a guest, and nothing beside it.
#include "memory/register_pages.h"

#include <doctest/doctest.h>

#include <algorithm>

using namespace hutch;

TEST_CASE("pages are whole, zero, and one for each device") {
  Result<RegisterPages> made = RegisterPages::create(3);
  REQUIRE(made);
  RegisterPages pages = *std::move(made);
  CHECK(reinterpret_cast<uintptr_t>(pages.all().data()) % RegisterPages::kPageSize == 0);
  CHECK(pages.all().size() == 3 * RegisterPages::kPageSize);
  CHECK(std::ranges::all_of(pages.all(), [](std::byte b) { return b == std::byte{0}; }));
  CHECK(pages.page(2).data() == pages.all().data() + 2 * RegisterPages::kPageSize);
  CHECK(pages.page(2).size() == RegisterPages::kPageSize);
  CHECK(pages.page(3).empty());
  RegisterPages none;
  CHECK(none.page(0).empty());
  none = std::move(pages);
  CHECK(none.page(0).size() == RegisterPages::kPageSize);
}
