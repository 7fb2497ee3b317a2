#include "memory/guest_memory.h"

#include <doctest/doctest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>

namespace hutch {
namespace {

constexpr uint64_t kMiB = 1 << 20;

GuestMemory two_regions() {
  std::array ranges{GuestRange{GuestAddress(0), 2 * kMiB},
                    GuestRange{GuestAddress(4ull << 30), 2 * kMiB}};
  return GuestMemory::create(ranges).value();
}

TEST_CASE("an address plus a length that wraps is nothing") {
  CHECK(!GuestAddress(UINT64_MAX).offset(1));
  CHECK(GuestAddress(1).offset(UINT64_MAX - 1)->value() == UINT64_MAX);
  CHECK(!GuestRange{GuestAddress(0), UINT64_MAX}.contains({GuestAddress(UINT64_MAX), 2}));
}

TEST_CASE("V06: buffers end exactly at the end of RAM, and not one byte further") {
  GuestMemory memory = two_regions();
  CHECK(memory.contains({GuestAddress(0), 2 * kMiB}));
  CHECK(memory.contains({GuestAddress(2 * kMiB - 1), 1}));
  CHECK(!memory.contains({GuestAddress(2 * kMiB - 1), 2}));
  CHECK(memory.contains({GuestAddress((4ull << 30) + kMiB), kMiB}));
  CHECK(!memory.contains({GuestAddress((4ull << 30) + kMiB), kMiB + 1}));
}

TEST_CASE("V06: holes, wrapping ranges and the space between regions are errors") {
  GuestMemory memory = two_regions();
  CHECK(!memory.read<uint32_t>(GuestAddress(2 * kMiB - 2)));
  CHECK(!memory.read<uint8_t>(GuestAddress(3ull << 30)));
  CHECK(!memory.read<uint64_t>(GuestAddress(UINT64_MAX - 3)));
  CHECK(!memory.write<uint8_t>(GuestAddress((4ull << 30) - 1), uint8_t{1}));
  CHECK(!memory.view({GuestAddress(kMiB), UINT64_MAX}));
}

TEST_CASE("what is written is read back, and nothing is resident before it is touched") {
  GuestMemory memory = two_regions();
  CHECK(memory.resident_bytes().value() == 0);
  REQUIRE(memory.write<uint64_t>(GuestAddress(0x1000), uint64_t{42}));
  CHECK(memory.read<uint64_t>(GuestAddress(0x1000)).value() == 42);
  CHECK(memory.resident_bytes().value() >= 4096);
}

TEST_CASE("V09: a ring index at an odd address is an error") {
  GuestMemory memory = two_regions();
  REQUIRE(memory.store_release(GuestAddress(0x2000), 7));
  CHECK(memory.load_acquire(GuestAddress(0x2000)).value() == 7);
  CHECK(!memory.load_acquire(GuestAddress(0x2001)));
  CHECK(!memory.store_release(GuestAddress(0x2001), 1));
}

TEST_CASE("regions are aligned to 2 MiB and have guard pages on both sides") {
  GuestMemory memory = two_regions();
  for (const GuestMemory::Region& region : memory.regions()) {
    CHECK(reinterpret_cast<uintptr_t>(region.host) % (2 * kMiB) == 0);
    for (std::byte* outside : {region.host - 1, region.host + region.range.size}) {
      pid_t child = ::fork();
      if (child == 0) {
        ::signal(SIGSEGV, SIG_DFL);
        *const_cast<volatile std::byte*>(outside) = std::byte{1};
        ::_exit(0);
      }
      int status = 0;
      REQUIRE(::waitpid(child, &status, 0) == child);
      // A sanitizer turns the fault into an exit with an error.
      CHECK((WIFSIGNALED(status) || WEXITSTATUS(status) != 0));
    }
  }
}

TEST_CASE("ranges that overlap, are unaligned or wrap are refused") {
  auto create = [](GuestRange first, GuestRange second) {
    std::array ranges{first, second};
    return GuestMemory::create(ranges).has_value();
  };
  CHECK(!create({GuestAddress(0), kMiB}, {GuestAddress(kMiB - 4096), kMiB}));
  CHECK(!create({GuestAddress(0), 100}, {GuestAddress(kMiB), kMiB}));
  CHECK(!create({GuestAddress(0), kMiB}, {GuestAddress(~0xfffull), 2 * kMiB}));
  CHECK(!GuestMemory::create({}));
}

struct CountingObserver final : AccessObserver {
  void on_read(GuestRange) override { reads++; }
  void on_write(GuestRange) override { writes++; }
  int reads = 0, writes = 0;
};

TEST_CASE("an observer sees every access") {
  GuestMemory memory = two_regions();
  CountingObserver observer;
  memory.set_observer(&observer);
  REQUIRE(memory.write<uint16_t>(GuestAddress(0), uint16_t{1}));
  CHECK(memory.read<uint16_t>(GuestAddress(0)).value() == 1);
  CHECK(memory.load_acquire(GuestAddress(0)).value() == 1);
  CHECK(observer.reads == 2);
  CHECK(observer.writes == 1);
}

}  // namespace
}  // namespace hutch
