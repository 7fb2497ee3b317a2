#include "virtio/rng.h"

#include <sys/random.h>

#include <algorithm>
#include <cerrno>

#include "base/sys.h"

namespace hutch::virtio {
namespace {
constexpr uint16_t kQueueSize = 64;
}

Rng::Rng(Loop& loop) : loop_(loop), requests_(loop, [this](const Chain& c) { return fill(c); }) {}

DeviceTraits Rng::traits() const {
  return {.device_id = spec::kDeviceIdEntropy, .queue_sizes = {kQueueSize}};
}

Result<void> Rng::start_queue(uint16_t, QueueResources resources, uint64_t) {
  return requests_.start(std::move(resources));
}

std::optional<QueueState> Rng::stop_queue(uint16_t) {
  loop_.run_on_loop([this] { refill_.reset(); });
  return requests_.stop();
}

Result<std::optional<uint64_t>> Rng::fill(const Chain& chain) {
  uint64_t size = std::min(chain.writable_size(), kMaxRequest);
  uint64_t now = monotonic_ns();
  if (bytes_.available(now) < size) {
    refill_ = loop_.after(bytes_.until(size), [this](uint32_t) { requests_.run(); });
    return std::nullopt;
  }
  bytes_.take(size, now);
  for (const iovec& part : TRY(chain.writable_view(0, size))) {
    auto* next = static_cast<std::byte*>(part.iov_base);
    for (size_t left = part.iov_len; left > 0;) {
      ssize_t count = ::getrandom(next, left, 0);
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return fail_errno(errno, "asking the host for random bytes");
      next += count;
      left -= static_cast<size_t>(count);
    }
  }
  return size;
}

}  // namespace hutch::virtio
