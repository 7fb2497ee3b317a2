// Queue and Chain against a driver that is correct, and against one that is not.
#include "virtio/queue.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>

#include "tests/guest_driver.h"

namespace hutch::virtio {
namespace {

using testing::bytes_of;
using testing::GuestQueue;
using testing::GuestRequest;
using testing::kMiB;
using testing::make_memory;
using testing::ReadCounter;
using testing::to_bytes;
using testing::to_text;

constexpr uint16_t kSize = 8;
constexpr uint64_t kAllFeatures = spec::kFeatureEventIndex | spec::kFeatureIndirectDescriptors;
constexpr uint64_t kRam = 4 * kMiB;

struct Fixture {
  explicit Fixture(uint64_t features = kAllFeatures, QueueState state = {})
      : queue(Queue::create(memory, driver.layout(), kSize, features, state).value()) {}

  // Whether pop() refuses the chain that starts at descriptor 0, and leaves nothing behind.
  bool refuses_chain() {
    driver.raw_publish(0);
    Result<std::optional<Chain>> popped = queue.pop();
    if (popped.has_value() && popped->has_value()) queue.abandon(**std::move(popped));
    return !popped.has_value() && queue.outstanding() == 0;
  }

  GuestMemory memory = make_memory(kRam);
  GuestQueue driver{memory, GuestAddress(0x10000), kSize};
  Queue queue;
};

TEST_CASE("a request's buffers reach the device, and what the device wrote reaches the driver") {
  Fixture fixture;
  GuestRequest request = fixture.driver.readable(to_bytes("hello "))
                             .readable(to_bytes("world"))
                             .writable(3)
                             .writable(5)
                             .submit();
  Chain chain = *fixture.queue.pop().value();
  CHECK(chain.readable().size() == 2);
  CHECK(chain.readable_size() == 11);
  CHECK(chain.writable_size() == 8);
  std::vector<std::byte> text(11);
  CHECK(chain.read(0, text).value() == 11);
  CHECK(to_text(text) == "hello world");
  CHECK(chain.read(4, std::span(text).first(4)).value() == 4);
  CHECK(to_text(std::span(text).first(4)) == "o wo");
  CHECK(chain.read(9, text).value() == 2);
  CHECK(chain.read(11, text).value() == 0);
  CHECK(chain.write(1, to_bytes("abcdefghij")).value() == 7);
  REQUIRE(fixture.queue.complete(std::move(chain), 8));
  auto used = fixture.driver.take_used();
  CHECK(used->head == request.head);
  CHECK(used->length == 8);
  CHECK(to_text(fixture.driver.written(request)).substr(1) == "abcdefg");
  CHECK(!fixture.queue.pop().value());
}

TEST_CASE("the kernel's view of a chain is cut at buffers and at the end") {
  Fixture fixture;
  GuestRequest request =
      fixture.driver.readable(to_bytes("abcd")).writable(100).writable(50).submit();
  Chain chain = *fixture.queue.pop().value();
  std::vector<iovec> view = chain.writable_view(90, 1000).value();
  REQUIRE(view.size() == 2);
  CHECK(view[0].iov_len == 10);
  CHECK(view[1].iov_len == 50);
  CHECK(view[0].iov_base ==
        fixture.memory.view({*request.writable[0].start.offset(90), 1})->iov_base);
  CHECK(chain.readable_view(1, 2).value().at(0).iov_len == 2);
  CHECK(chain.writable_view(150, 1).value().empty());
  REQUIRE(fixture.queue.complete(std::move(chain), 0));
}

TEST_CASE("a length beyond the writable part is clamped to it") {
  Fixture fixture;
  fixture.driver.writable(10).submit();
  REQUIRE(fixture.queue.complete(*fixture.queue.pop().value(), 1 << 30));
  CHECK(fixture.driver.take_used()->length == 10);
}

TEST_CASE("a request put back is served later, and the indices wrap at 65536") {
  Fixture fixture(kAllFeatures, QueueState{65530, 65530});
  fixture.driver.start_at(65530);
  for (int i = 0; i < 20; i++) {
    GuestRequest request = fixture.driver.writable(4).submit();
    fixture.queue.undo_pop(*fixture.queue.pop().value());
    CHECK(fixture.queue.outstanding() == 0);
    Chain chain = *fixture.queue.pop().value();
    CHECK(std::ranges::equal(chain.writable(), request.writable));
    REQUIRE(fixture.queue.complete(std::move(chain), 1));
    CHECK(fixture.driver.take_used()->head == request.head);
  }
  CHECK(fixture.queue.state() == QueueState{14, 14});
  CHECK(fixture.driver.used_index() == 14);
}

TEST_CASE("several requests put back, the last first, are served in their order") {
  Fixture fixture;
  std::vector<GuestRequest> requests;
  for (uint64_t i = 1; i <= 5; i++) requests.push_back(fixture.driver.writable(i).submit());
  for (int round = 0; round < 3; round++) {
    std::vector<Chain> chains;
    for (int i = 0; i < 5; i++) chains.push_back(*fixture.queue.pop().value());
    CHECK(!fixture.queue.pop().value());
    CHECK(fixture.queue.outstanding() == 5);
    while (!chains.empty()) {
      fixture.queue.undo_pop(std::move(chains.back()));
      chains.pop_back();
    }
    CHECK(fixture.queue.outstanding() == 0);
    CHECK(fixture.queue.state() == QueueState{});
  }
  for (const GuestRequest& request : requests) {
    Chain chain = *fixture.queue.pop().value();
    CHECK(std::ranges::equal(chain.writable(), request.writable));
    REQUIRE(fixture.queue.complete(std::move(chain), 1));
    CHECK(fixture.driver.take_used()->head == request.head);
  }
}

TEST_CASE(
    "requests completed unpublished are seen together, in order, and are in flight till then") {
  Fixture fixture;
  for (uint32_t round = 0; round < 3; round++) {
    std::vector<GuestRequest> requests;
    for (uint32_t i = 0; i < kSize; i++) requests.push_back(fixture.driver.writable(64).submit());
    for (uint32_t i = 0; i < kSize; i++)
      REQUIRE(fixture.queue.complete_unpublished(*fixture.queue.pop().value(), i));
    CHECK(!fixture.driver.take_used());
    CHECK(fixture.queue.outstanding() == kSize);
    REQUIRE(fixture.queue.publish());
    CHECK(fixture.queue.outstanding() == 0);
    CHECK(fixture.queue.state().next_used == kSize * (round + 1));
    for (uint32_t i = 0; i < kSize; i++) {
      std::optional<GuestQueue::Used> used = fixture.driver.take_used();
      REQUIRE(used);
      CHECK(used->head == requests[i].head);
      CHECK(used->length == i);
    }
    CHECK(!fixture.driver.take_used());
    // Nothing is left to publish.
    REQUIRE(fixture.queue.publish());
    CHECK(!fixture.driver.take_used());
  }
}

TEST_CASE("V07: what is completed unpublished makes no room for more requests") {
  Fixture fixture;
  for (uint32_t i = 0; i < kSize; i++) fixture.driver.writable(4).submit();
  for (uint32_t i = 0; i < kSize; i++)
    REQUIRE(fixture.queue.complete_unpublished(*fixture.queue.pop().value(), 4));
  fixture.driver.raw_publish(0);
  CHECK(!fixture.queue.pop());
}

TEST_CASE("a device that knows of requests asks to be notified of the next") {
  for (uint64_t features : {uint64_t{0}, kAllFeatures}) {
    Fixture fixture(features);
    for (uint16_t known = 0; known < 4; known++) {
      CHECK(fixture.queue.enable_notification(known).value() == false);
      if (features != 0) CHECK(fixture.driver.available_event() == known);
      fixture.driver.writable(4).submit();
      CHECK(fixture.queue.enable_notification(known).value() == true);
    }
  }
}

TEST_CASE("an indirect table holds a request longer than the queue") {
  Fixture fixture;
  testing::RequestBuilder builder = fixture.driver.request();
  for (int i = 0; i < 100; i++) std::move(builder).writable(2);
  GuestRequest request = std::move(builder).indirect().submit();
  Chain chain = *fixture.queue.pop().value();
  CHECK(chain.writable().size() == 100);
  CHECK(chain.writable_size() == 200);
  REQUIRE(fixture.queue.complete(std::move(chain), 0));
  CHECK(fixture.driver.take_used()->head == request.head);
}

TEST_CASE("ordinary descriptors may stand before an indirect one") {
  Fixture fixture;
  fixture.driver.raw_descriptor(0, 0x80000, 16, spec::kDescriptorNext, 1);
  // The device must ignore the write flag of a descriptor that refers to a table.
  fixture.driver.raw_descriptor(1, 0x90000, 16, spec::kDescriptorIndirect | spec::kDescriptorWrite,
                                0);
  fixture.driver.raw_descriptor_at(GuestAddress(0x90000), 0x81000, 32, 0, 0);
  fixture.driver.raw_publish(0);
  Chain chain = *fixture.queue.pop().value();
  CHECK(chain.readable_size() == 48);
  REQUIRE(fixture.queue.complete(std::move(chain), 0));
}

// --- V01 ---------------------------------------------------------------------------------------

// Overwrites a random half of a random descriptor. Not instrumented: the race with the device's
// copy is what the tests are about.
__attribute__((no_sanitize("thread"))) void flip(std::byte* table, size_t count, bool flip_next,
                                                 uint64_t& random) {
  random = random * 6364136223846793005u + 1442695040888963407u;
  auto* words = reinterpret_cast<volatile uint64_t*>(table);
  const size_t index = (random >> 33) % (2 * count);
  uint64_t value = random ^ (random >> 29);
  // The second half of a descriptor ends with `next`: here, the entry behind it.
  if (index % 2 == 1 && !flip_next) value = (value & (~0ull >> 16)) | (index / 2 + 1) << 48;
  words[index] = value;
}

struct RaceResult {
  int most_reads = 0;  // of one byte of the descriptor table in one pop()
  uint64_t accepted = 0;
  uint64_t refused = 0;
  uint64_t outside_ram = 0;
};

// Pops plausible chains while another thread flips their descriptors at full speed.
RaceResult race(int rounds, bool flip_next) {
  Fixture fixture;
  GuestRange table{fixture.driver.layout().descriptors, 16 * kSize};
  GuestRange indirect{GuestAddress(0x200000), 16 * 4};
  ReadCounter reads(table);
  fixture.memory.set_observer(&reads);
  auto* table_host = static_cast<std::byte*>(fixture.memory.view(table)->iov_base);
  auto* indirect_host = static_cast<std::byte*>(fixture.memory.view(indirect)->iov_base);
  std::atomic<bool> stop{false};
  std::thread flipper([&] {
    uint64_t random = 1;
    while (!stop.load(std::memory_order_relaxed)) {
      flip(table_host, 3, flip_next, random);
      flip(indirect_host, 4, flip_next, random);
    }
  });

  RaceResult result;
  // On a busy host the other thread may not run for long: until it has been seen at work.
  auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  for (int i = 0;
       i < rounds || (result.refused == 0 && std::chrono::steady_clock::now() < deadline); i++) {
    fixture.driver.raw_descriptor(0, 0x100000, 64, spec::kDescriptorNext, 1);
    fixture.driver.raw_descriptor(1, 0x110000, 64, spec::kDescriptorWrite | spec::kDescriptorNext,
                                  2);
    fixture.driver.raw_descriptor(2, indirect.start.value(), 64, spec::kDescriptorIndirect, 0);
    fixture.driver.raw_descriptor_at(indirect.start, 0x120000, 8, spec::kDescriptorWrite, 0);
    fixture.driver.raw_publish(0);
    reads.clear();
    Result<std::optional<Chain>> popped = fixture.queue.pop();
    result.most_reads = std::max(result.most_reads, reads.most());
    if (!popped) {
      result.refused++;
      fixture.driver.raw_available_index(fixture.queue.state().next_available);
      continue;
    }
    result.accepted++;
    auto outside = [&](GuestRange range) { return !fixture.memory.contains(range); };
    result.outside_ram +=
        static_cast<uint64_t>(std::ranges::count_if((*popped)->readable(), outside) +
                              std::ranges::count_if((*popped)->writable(), outside));
    REQUIRE(fixture.queue.complete(**std::move(popped), 0));
  }
  stop = true;
  flipper.join();
  fixture.memory.set_observer(nullptr);
  return result;
}

TEST_CASE("V01: each descriptor field is read once, while another thread flips descriptors") {
  RaceResult result = race(100'000, false);
  CHECK(result.most_reads == 1);
  CHECK(result.outside_ram == 0);
  CHECK(result.accepted > 0);
  CHECK(result.refused > 0);
}

TEST_CASE("V01: a chain whose links change while it is walked ends, inside RAM") {
  RaceResult result = race(100'000, true);
  // A link back makes the walk come to a descriptor again, at most once per step.
  CHECK(result.most_reads <= kSize);
  CHECK(result.outside_ram == 0);
  CHECK(result.accepted > 0);
  CHECK(result.refused > 0);
}

TEST_CASE("V01: the entries of an indirect table are read once") {
  Fixture fixture;
  GuestRange arena{GuestAddress(0x200000), 16 * 64};
  for (uint16_t i = 0; i < 64; i++)
    fixture.driver.raw_descriptor_at(*arena.start.offset(16u * i), 0x100000, 1,
                                     i < 63 ? spec::kDescriptorNext : 0,
                                     static_cast<uint16_t>(i + 1));
  fixture.driver.raw_descriptor(0, arena.start.value(), 16 * 64, spec::kDescriptorIndirect, 0);
  ReadCounter reads(arena);
  fixture.memory.set_observer(&reads);
  fixture.driver.raw_publish(0);
  Chain chain = *fixture.queue.pop().value();
  CHECK(chain.readable_size() == 64);
  CHECK(reads.most() == 1);
  CHECK(reads.touched() == 16 * 64);
  REQUIRE(fixture.queue.complete(std::move(chain), 0));
}

// --- V03, V04 ----------------------------------------------------------------------------------

TEST_CASE("V03: a looping chain is an error, not a hang") {
  SUBCASE("a descriptor that is its own successor") {
    Fixture fixture;
    fixture.driver.raw_descriptor(0, 0x100000, 1, spec::kDescriptorNext, 0);
    CHECK(fixture.refuses_chain());
  }
  SUBCASE("two descriptors") {
    Fixture fixture;
    fixture.driver.raw_descriptor(0, 0x100000, 1, spec::kDescriptorNext, 1);
    fixture.driver.raw_descriptor(1, 0x100000, 1, spec::kDescriptorNext, 0);
    CHECK(fixture.refuses_chain());
  }
  SUBCASE("the whole table") {
    Fixture fixture;
    for (uint16_t i = 0; i < kSize; i++)
      fixture.driver.raw_descriptor(i, 0x100000, 1, spec::kDescriptorNext,
                                    static_cast<uint16_t>((i + 1) % kSize));
    CHECK(fixture.refuses_chain());
  }
  SUBCASE("buffers of no bytes") {
    Fixture fixture;
    fixture.driver.raw_descriptor(0, 0x100000, 0, spec::kDescriptorNext, 0);
    CHECK(fixture.refuses_chain());
  }
  SUBCASE("inside an indirect table") {
    Fixture fixture;
    fixture.driver.raw_descriptor(0, 0x90000, 48, spec::kDescriptorIndirect, 0);
    fixture.driver.raw_descriptor_at(GuestAddress(0x90000), 0x100000, 1, spec::kDescriptorNext, 1);
    fixture.driver.raw_descriptor_at(GuestAddress(0x90010), 0x100000, 1, spec::kDescriptorNext, 0);
    CHECK(fixture.refuses_chain());
  }
}

TEST_CASE("V03: a chain that uses every descriptor of the queue is no loop") {
  Fixture fixture;
  for (uint16_t i = 0; i < kSize; i++)
    fixture.driver.raw_descriptor(i, 0x100000, 1, i + 1 < kSize ? spec::kDescriptorNext : 0,
                                  static_cast<uint16_t>(i + 1));
  CHECK(!fixture.refuses_chain());
}

TEST_CASE("V04: an indirect table must be one, whole, and not too long") {
  auto refuses_table = [](uint64_t address, uint32_t length, uint16_t flags, uint64_t features) {
    Fixture fixture(features);
    fixture.driver.raw_descriptor(0, address, length, flags, 0);
    fixture.driver.raw_descriptor_at(GuestAddress(0x90000), 0x100000, 1, 0, 0);
    return fixture.refuses_chain();
  };
  constexpr uint16_t kIndirect = spec::kDescriptorIndirect;
  CHECK(!refuses_table(0x90000, 16, kIndirect, kAllFeatures));
  CHECK(!refuses_table(0x90000, 16 * kMaxIndirectDescriptors, kIndirect, kAllFeatures));
  CHECK(refuses_table(0x90000, 0, kIndirect, kAllFeatures));
  CHECK(refuses_table(0x90000, 15, kIndirect, kAllFeatures));
  CHECK(refuses_table(0x90000, 17, kIndirect, kAllFeatures));
  CHECK(refuses_table(0x90000, 16 * (kMaxIndirectDescriptors + 1), kIndirect, kAllFeatures));
  CHECK(refuses_table(0x90000, 0xfffffff0, kIndirect, kAllFeatures));
  CHECK(refuses_table(kRam - 8, 16, kIndirect, kAllFeatures));
  CHECK(refuses_table(UINT64_MAX - 7, 16, kIndirect, kAllFeatures));
  CHECK(refuses_table(0x90000, 16, kIndirect | spec::kDescriptorNext, kAllFeatures));
  CHECK(refuses_table(0x90000, 16, kIndirect, spec::kFeatureEventIndex));
}

TEST_CASE("V04: an indirect table inside an indirect table is refused") {
  Fixture fixture;
  fixture.driver.raw_descriptor(0, 0x90000, 16, spec::kDescriptorIndirect, 0);
  fixture.driver.raw_descriptor_at(GuestAddress(0x90000), 0x91000, 16, spec::kDescriptorIndirect,
                                   0);
  fixture.driver.raw_descriptor_at(GuestAddress(0x91000), 0x100000, 1, 0, 0);
  CHECK(fixture.refuses_chain());
}

TEST_CASE("V04: a next index outside its table is refused") {
  Fixture fixture;
  fixture.driver.raw_descriptor(0, 0x90000, 32, spec::kDescriptorIndirect, 0);
  fixture.driver.raw_descriptor_at(GuestAddress(0x90000), 0x100000, 1, spec::kDescriptorNext, 2);
  CHECK(fixture.refuses_chain());

  Fixture direct;
  direct.driver.raw_descriptor(0, 0x100000, 1, spec::kDescriptorNext, kSize);
  CHECK(direct.refuses_chain());
}

// --- V05, V06, V18 -----------------------------------------------------------------------------

TEST_CASE("V05: lengths that wrap or add up to 4 GiB are refused") {
  auto refuses_buffer = [](uint64_t address, uint32_t length) {
    Fixture fixture;
    fixture.driver.raw_descriptor(0, address, length, 0, 0);
    return fixture.refuses_chain();
  };
  CHECK(refuses_buffer(0x1000, 0xffffffff));
  CHECK(refuses_buffer(UINT64_MAX, 1));
  CHECK(refuses_buffer(UINT64_MAX, 2));
  CHECK(refuses_buffer(UINT64_MAX - 4, 0xffffffff));

  // The same RAM over and over: every buffer is fine, their sum is not.
  Fixture fixture;
  constexpr uint32_t kCount = 1024;
  for (uint32_t i = 0; i < kCount; i++)
    fixture.driver.raw_descriptor_at(GuestAddress(0x90000 + 16 * i), 0, kRam,
                                     i + 1 < kCount ? spec::kDescriptorNext : 0,
                                     static_cast<uint16_t>(i + 1));
  fixture.driver.raw_descriptor(0, 0x90000, 16 * kCount, spec::kDescriptorIndirect, 0);
  CHECK(fixture.refuses_chain());
}

TEST_CASE("V05: buffers of no bytes are skipped, wherever they point") {
  Fixture fixture;
  fixture.driver.raw_descriptor(0, UINT64_MAX, 0, spec::kDescriptorNext, 1);
  fixture.driver.raw_descriptor(1, 0x100000, 5, 0, 0);
  fixture.driver.raw_publish(0);
  Chain chain = *fixture.queue.pop().value();
  CHECK(chain.readable().size() == 1);
  CHECK(chain.readable_size() == 5);
  REQUIRE(fixture.queue.complete(std::move(chain), 0));
}

TEST_CASE("V06: a buffer ends exactly at the end of RAM, and not one byte further") {
  auto refuses_buffer = [](uint64_t address, uint32_t length) {
    Fixture fixture;
    fixture.driver.raw_descriptor(0, address, length, spec::kDescriptorWrite, 0);
    return fixture.refuses_chain();
  };
  CHECK(!refuses_buffer(kRam - 16, 16));
  CHECK(refuses_buffer(kRam - 16, 17));
  CHECK(refuses_buffer(kRam, 1));
}

TEST_CASE("V06: a buffer across the hole under 4 GiB is refused, one on each side is not") {
  std::array ranges{GuestRange{GuestAddress(0), 2 * kMiB},
                    GuestRange{GuestAddress(4ull << 30), 2 * kMiB}};
  GuestMemory memory = GuestMemory::create(ranges).value();
  GuestQueue driver(memory, GuestAddress(0x10000), kSize);
  Queue queue = Queue::create(memory, driver.layout(), kSize, kAllFeatures).value();
  driver.raw_descriptor(0, 2 * kMiB - 8, 8, spec::kDescriptorNext, 1);
  driver.raw_descriptor(1, 4ull << 30, 8, 0, 0);
  driver.raw_publish(0);
  REQUIRE(queue.complete(*queue.pop().value(), 0));
  driver.raw_descriptor(0, 2 * kMiB - 8, 16, 0, 0);
  driver.raw_publish(0);
  CHECK(!queue.pop());
}

TEST_CASE("V06: a buffer over the rings themselves is only RAM") {
  Fixture fixture;
  GuestRequest request =
      fixture.driver.request().writable_at(fixture.driver.layout().descriptors, 128).submit();
  Chain chain = *fixture.queue.pop().value();
  CHECK(chain.write(0, std::vector<std::byte>(128, std::byte{0xff})).value() == 128);
  REQUIRE(fixture.queue.complete(std::move(chain), 128));
  CHECK(fixture.driver.take_used()->head == request.head);
}

TEST_CASE("V18: a buffer over a device's registers is refused, since those are not RAM") {
  auto refuses_buffer = [](uint64_t address) {
    Fixture fixture;
    fixture.driver.raw_descriptor(0, address, 4, spec::kDescriptorWrite, 0);
    return fixture.refuses_chain();
  };
  CHECK(refuses_buffer(0xd000'0050));
  CHECK(refuses_buffer(0xfee0'0000));
  CHECK(refuses_buffer(0xfec0'0000));
}

TEST_CASE("a readable buffer behind a writable one is refused") {
  Fixture fixture;
  fixture.driver.raw_descriptor(0, 0x100000, 1, spec::kDescriptorWrite | spec::kDescriptorNext, 1);
  fixture.driver.raw_descriptor(1, 0x100000, 1, 0, 0);
  CHECK(fixture.refuses_chain());
}

// --- V07, V08, V09 -----------------------------------------------------------------------------

TEST_CASE("V07: an available index too far ahead, or behind, is an error") {
  for (int index : {kSize + 1, 0x7fff, 0x8000, 0xffff}) {
    Fixture fixture;
    fixture.driver.raw_available_index(static_cast<uint16_t>(index));
    CHECK(!fixture.queue.pop());
  }
  Fixture fixture;
  fixture.driver.raw_available_index(kSize);
  REQUIRE(fixture.queue.complete(*fixture.queue.pop().value(), 0));
}

TEST_CASE("V07: a head outside the table is an error") {
  for (uint16_t head : {kSize, uint16_t{0xffff}}) {
    Fixture fixture;
    fixture.driver.raw_publish(head);
    CHECK(!fixture.queue.pop());
  }
}

TEST_CASE("V07: republished heads cannot put more than the queue's size in flight") {
  Fixture fixture;
  fixture.driver.raw_descriptor(0, 0x100000, 4, spec::kDescriptorWrite, 0);
  std::vector<Chain> in_flight;
  for (int i = 0; i < kSize; i++) {
    fixture.driver.raw_publish(0);
    in_flight.push_back(*fixture.queue.pop().value());
  }
  fixture.driver.raw_publish(0);
  CHECK(!fixture.queue.pop());
  CHECK(fixture.queue.outstanding() == kSize);
  for (Chain& chain : in_flight) REQUIRE(fixture.queue.complete(std::move(chain), 0));
  // With all given back, the same index is in order again.
  REQUIRE(fixture.queue.complete(*fixture.queue.pop().value(), 0));
}

TEST_CASE("V08: the used ring is never read back") {
  Fixture fixture;
  GuestRange used{fixture.driver.layout().used, 6 + 8 * kSize};
  ReadCounter reads(used);
  for (int i = 0; i < 3 * kSize; i++) {
    fixture.driver.writable(4).submit();
    fixture.memory.set_observer(&reads);
    REQUIRE(fixture.queue.disable_notification());
    Chain chain = *fixture.queue.pop().value();
    REQUIRE(fixture.queue.complete(std::move(chain), 4));
    CHECK(fixture.queue.should_interrupt().has_value());
    CHECK(fixture.queue.enable_notification().value() == false);
    fixture.memory.set_observer(nullptr);
    CHECK(fixture.driver.take_used()->length == 4);
  }
  CHECK(reads.touched() == 0);
}

TEST_CASE("V08: a used ring over the descriptor table harms only the driver") {
  GuestMemory memory = make_memory(kRam);
  GuestQueue driver(memory, GuestAddress(0x10000), kSize);
  QueueLayout layout = driver.layout();
  layout.used = layout.descriptors;
  Queue queue = Queue::create(memory, layout, kSize, kAllFeatures).value();
  uint64_t popped = 0;
  for (int i = 0; i < 1000; i++) {
    driver.raw_descriptor(static_cast<uint16_t>(i % kSize), 0x100000, 8, spec::kDescriptorWrite, 0);
    driver.raw_publish(static_cast<uint16_t>(i % kSize));
    Result<std::optional<Chain>> chain = queue.pop();
    if (!chain) {
      driver.raw_available_index(queue.state().next_available);
      continue;
    }
    popped++;
    for (const GuestRange& range : (*chain)->writable()) CHECK(memory.contains(range));
    REQUIRE(queue.complete(**std::move(chain), 8));
  }
  CHECK(popped > 0);
}

TEST_CASE("V08: event indices work across 65535, both ways") {
  Fixture fixture(kAllFeatures, QueueState{65534, 65534});
  fixture.driver.start_at(65534);
  int interrupts = 0;
  fixture.driver.set_used_event(0);  // the driver has looked at all up to index 0
  for (int i = 0; i < 6; i++) {      // 65534, 65535, 0 (the one that interrupts), 1, 2, 3
    CHECK(fixture.queue.enable_notification().value() == false);
    CHECK(fixture.driver.available_event() == static_cast<uint16_t>(65534 + i));
    fixture.driver.writable(1).submit();
    CHECK(fixture.queue.enable_notification().value() == true);
    REQUIRE(fixture.queue.complete(*fixture.queue.pop().value(), 1));
    bool interrupt = fixture.queue.should_interrupt().value();
    CHECK(interrupt == (i == 2));
    interrupts += interrupt;
  }
  CHECK(interrupts == 1);
}

TEST_CASE("interrupts are asked once per completion, and not when the driver wants none") {
  Fixture fixture(0);
  CHECK(fixture.queue.should_interrupt().value() == false);
  for (bool no_interrupt : {false, true}) {
    fixture.driver.set_no_interrupt(no_interrupt);
    fixture.driver.writable(1).submit();
    REQUIRE(fixture.queue.complete(*fixture.queue.pop().value(), 1));
    CHECK(fixture.queue.should_interrupt().value() == !no_interrupt);
    CHECK(fixture.queue.should_interrupt().value() == false);
  }
}

TEST_CASE("without event indices, notifications are a flag") {
  Fixture fixture(0);
  REQUIRE(fixture.queue.disable_notification());
  CHECK(fixture.driver.used_flags() == spec::kUsedNoNotify);
  CHECK(fixture.queue.enable_notification().value() == false);
  CHECK(fixture.driver.used_flags() == 0);
}

TEST_CASE("V09: a driver thread and a device thread lose, tear and reorder nothing") {
  constexpr uint32_t kRequests = 20'000;
  Fixture fixture;
  std::thread device([&] {
    for (uint32_t served = 0; served < kRequests;) {
      std::optional<Chain> chain = fixture.queue.pop().value();
      if (!chain) {
        std::this_thread::yield();
        continue;
      }
      le32 number(0);
      REQUIRE(chain->read(0, std::as_writable_bytes(std::span(&number, 1))).value() == 4);
      le32 answer(number + 1);
      REQUIRE(chain->write(0, std::as_bytes(std::span(&answer, 1))).value() == 4);
      REQUIRE(fixture.queue.complete(*std::move(chain), 4));
      served++;
    }
  });
  std::deque<std::pair<uint32_t, GuestRequest>> waiting;
  uint32_t sent = 0, wrong = 0;
  for (uint32_t received = 0; received < kRequests;) {
    while (sent < kRequests && waiting.size() < kSize / 2) {
      waiting.emplace_back(sent,
                           fixture.driver.readable(bytes_of(le32(sent))).writable(4).submit());
      sent++;
    }
    std::optional<GuestQueue::Used> used = fixture.driver.take_used();
    if (!used) {
      std::this_thread::yield();
      continue;
    }
    auto [number, request] = waiting.front();
    waiting.pop_front();
    received++;
    wrong += used->head != request.head;
    wrong += fixture.driver.written(request) != bytes_of(le32(number + 1));
  }
  device.join();
  CHECK(wrong == 0);
}

// --- V11 ---------------------------------------------------------------------------------------

TEST_CASE("V11: queue geometry is checked before anything is touched") {
  GuestMemory memory = make_memory(kRam);
  QueueLayout good{kSize, GuestAddress(0x1000), GuestAddress(0x2000), GuestAddress(0x3000)};
  auto refuses = [&](auto change) {
    QueueLayout layout = good;
    change(layout);
    return !Queue::create(memory, layout, 256, kAllFeatures);
  };
  CHECK(!refuses([](QueueLayout&) {}));
  for (uint32_t size : {0u, 3u, 7u, 255u, 257u, 512u, 65536u, 65537u, 0x80000000u, 0xffffffffu})
    CHECK(refuses([&](QueueLayout& layout) { layout.size = size; }));
  for (uint64_t bad : std::initializer_list<uint64_t>{1, 0x1008, kRam, kRam - 16, ~0xfull})
    CHECK(refuses([&](QueueLayout& layout) { layout.descriptors = GuestAddress(bad); }));
  for (uint64_t bad : std::initializer_list<uint64_t>{1, kRam, kRam - 2, ~1ull, 0xd0000000})
    CHECK(refuses([&](QueueLayout& layout) { layout.available = GuestAddress(bad); }));
  for (uint64_t bad : std::initializer_list<uint64_t>{2, kRam, kRam - 4, ~3ull, 0xd0000000})
    CHECK(refuses([&](QueueLayout& layout) { layout.used = GuestAddress(bad); }));
  // Each area may end exactly where RAM ends.
  CHECK(!refuses([](QueueLayout& l) { l.descriptors = GuestAddress(kRam - 16 * kSize); }));
  CHECK(!refuses([](QueueLayout& l) { l.available = GuestAddress(kRam - (6 + 2 * kSize)); }));
  CHECK(!refuses([](QueueLayout& l) { l.used = GuestAddress(kRam - (8 + 8 * kSize)); }));
}

}  // namespace
}  // namespace hutch::virtio
