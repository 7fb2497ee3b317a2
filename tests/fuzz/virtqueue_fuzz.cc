// Fuzzes virtio::Queue and Chain: a driver that is mostly right, and a device that uses every call.
// Checked: buffers lie in RAM, are in order and bounded; what is in flight is bounded; the used
// index counts the completions that are published.
#include <deque>

#include "tests/fuzz/fuzz_ring.h"

namespace hutch::fuzz {
namespace {

using virtio::Chain;
using virtio::Queue;

void check_chain(const Chain& chain) {
  uint64_t readable = 0, writable = 0;
  for (const GuestRange& range : chain.readable()) {
    FUZZ_CHECK(range.size > 0 && memory().contains(range));
    readable += range.size;
  }
  for (const GuestRange& range : chain.writable()) {
    FUZZ_CHECK(range.size > 0 && memory().contains(range));
    writable += range.size;
  }
  FUZZ_CHECK(readable == chain.readable_size() && writable == chain.writable_size());
  FUZZ_CHECK(readable + writable <= UINT32_MAX);
}

void use_chain(FuzzInput& input, const Chain& chain) {
  std::array<std::byte, 256> bytes{};
  uint64_t offset = input.take<uint16_t>();
  size_t expected = std::min<uint64_t>(
      bytes.size(), chain.readable_size() - std::min(offset, chain.readable_size()));
  FUZZ_CHECK(chain.read(offset, bytes).value() == expected);
  // Not over the rings: the model below counts on them.
  uint64_t size = 0;
  const std::vector<iovec> view = chain.writable_view(offset, 4096).value();
  for (const iovec& part : view) size += part.iov_len;
  FUZZ_CHECK(size == std::min<uint64_t>(
                         4096, chain.writable_size() - std::min(offset, chain.writable_size())));
}

void run(FuzzInput input) {
  const auto size = static_cast<uint16_t>(1u << input.below(9));
  const uint64_t features = static_cast<uint64_t>(input.below(4)) << 28;
  static FuzzRing* ring = nullptr;
  static uint16_t ring_size = 0;
  if (ring_size != size) {
    delete ring;
    ring = new FuzzRing(GuestAddress(0x10000), size);
    ring_size = size;
  }
  ring->clear();
  Queue queue = Queue::create(memory(), ring->layout(), size, features).value();
  std::deque<Chain> in_flight;
  uint16_t completed = 0, published = 0;
  for (int step = 0; step < 40 && !input.is_empty(); step++) {
    switch (input.below(9)) {
      case 0:
      case 1: {
        std::vector<FuzzRing::Buffer> buffers;
        const uint32_t readable = input.below(5);
        const uint32_t count = readable + input.below(5);
        for (uint32_t i = 0; i < count; i++) {
          uint64_t length = 1 + input.below(300);
          buffers.push_back({{ring->allocate(length), length}, i >= readable});
        }
        ring->submit(input, buffers);
        break;
      }
      case 2:
      case 3: {
        Result<std::optional<Chain>> popped = queue.pop();
        if (!popped) goto broken;
        if (!*popped) break;
        check_chain(**popped);
        use_chain(input, **popped);
        in_flight.push_back(**std::move(popped));
        break;
      }
      case 4:
        if (in_flight.empty()) break;
        FUZZ_CHECK(queue.complete(std::move(in_flight.front()), input.take<uint32_t>()));
        in_flight.pop_front();
        published = ++completed;
        FUZZ_CHECK(ring->used_index() == published);
        break;
      case 5:
        if (in_flight.empty()) break;
        queue.undo_pop(std::move(in_flight.back()));
        in_flight.pop_back();
        break;
      case 6:
        FUZZ_CHECK(queue.publish());
        published = completed;
        FUZZ_CHECK(ring->used_index() == published);
        FUZZ_CHECK(queue.should_interrupt().has_value());
        ring->set_event(input.take<uint16_t>());
        break;
      case 7:
        if (in_flight.empty()) break;
        FUZZ_CHECK(
            queue.complete_unpublished(std::move(in_flight.front()), input.take<uint32_t>()));
        in_flight.pop_front();
        completed++;
        FUZZ_CHECK(ring->used_index() == published);
        break;
      default:
        FUZZ_CHECK(input.flip() ? queue.disable_notification().has_value()
                                : queue.enable_notification(input.byte()).has_value());
    }
    const size_t unpublished = static_cast<uint16_t>(completed - published);
    FUZZ_CHECK(queue.outstanding() == in_flight.size() + unpublished &&
               queue.outstanding() <= size);
  }
broken:
  for (Chain& chain : in_flight) queue.abandon(std::move(chain));
}

// Any layout at all: accepted only when all of it lies in RAM.
void create(FuzzInput input) {
  virtio::QueueLayout layout{
      .size = input.rarely() ? input.take<uint32_t>() : 1u << input.below(16),
      .descriptors = GuestAddress(input.take<uint64_t>() >> input.below(64)),
      .available = GuestAddress(input.take<uint64_t>() >> input.below(64)),
      .used = GuestAddress(input.take<uint64_t>() >> input.below(64))};
  Result<Queue> queue = Queue::create(memory(), layout, 32768, UINT64_MAX);
  if (!queue) return;
  FUZZ_CHECK(memory().contains({layout.descriptors, 16ull * layout.size}));
  FUZZ_CHECK(memory().contains({layout.available, 6 + 2ull * layout.size}));
  FUZZ_CHECK(memory().contains({layout.used, 6 + 8ull * layout.size}));
  Result<std::optional<Chain>> popped = queue->pop();
  if (popped && *popped) FUZZ_CHECK(queue->complete(**std::move(popped), 0));
  FUZZ_CHECK(queue->enable_notification());
}

}  // namespace
}  // namespace hutch::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace hutch::fuzz;
  FuzzInput input(data, size);
  if (input.rarely()) {
    create(input);
  } else {
    run(input);
  }
  return 0;
}
