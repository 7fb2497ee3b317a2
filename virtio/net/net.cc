#include "virtio/net/net.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <utility>

namespace hutch::virtio {

using net::Agreement;
using net::Drop;
using net::FrameWriter;

namespace {
constexpr uint16_t kQueueSize = 256;
constexpr uint16_t kMinMtu = 68;  // section 5.1.4.1
}  // namespace

Net::Net(Loop& loop, const NetOptions& options) : loop_(loop), options_(options) {
  assert(options.mtu >= kMinMtu && (options.mac[0] & 1) == 0);
}

Net::~Net() {
  assert(receive_ == nullptr && transmit_ == nullptr);
}

DeviceTraits Net::traits() const {
  return {.device_id = spec::kDeviceIdNet,
          .features = spec::kNetFeatureChecksum | spec::kNetFeatureGuestChecksum |
                      spec::kNetFeatureMtu | spec::kNetFeatureMac | spec::kNetFeatureGuestTcp4 |
                      spec::kNetFeatureGuestTcp6 | spec::kNetFeatureHostTcp4 |
                      spec::kNetFeatureHostTcp6 | spec::kNetFeatureMergeableBuffers |
                      spec::kNetFeatureStatus,
          .queue_sizes = {kQueueSize, kQueueSize},
          .config_size = sizeof(spec::NetConfig)};
}

void Net::read_config(uint32_t offset, std::span<uint8_t> data) {
  spec::NetConfig config{
      .mac = {}, .status = spec::kNetStatusLinkUp, .max_queue_pairs = 1, .mtu = options_.mtu};
  std::copy(options_.mac.begin(), options_.mac.end(), config.mac);
  std::memcpy(data.data(), reinterpret_cast<const uint8_t*>(&config) + offset, data.size());
}

// --- Start and stop ----------------------------------------------------------------------------

Result<void> Net::start_queue(uint16_t index, QueueResources resources, uint64_t features) {
  Result<void> started;
  loop_.run_on_loop([&] { started = start(index, std::move(resources), features); });
  return started;
}

Result<void> Net::start(uint16_t index, QueueResources resources, uint64_t features) {
  assert(far_side_ != nullptr);
  const bool is_receive = index == spec::kNetQueueReceive;
  std::unique_ptr<Running>& running = is_receive ? receive_ : transmit_;
  assert(running == nullptr);
  Watch watch = TRY(loop_.watch(resources.notify->get(), EPOLLIN, [this, is_receive](uint32_t) {
    is_receive ? receive_notified() : transmit_notified();
  }));
  // The driver may have made frames or room available, and notified, before the queue ran.
  resources.notify->signal();
  running = std::make_unique<Running>(Running{
      std::move(resources), Agreement::of(features, options_.mtu), std::move(watch), false, false});
  return {};
}

std::optional<QueueState> Net::stop_queue(uint16_t index) {
  std::optional<QueueState> state;
  loop_.run_on_loop([&] {
    std::unique_ptr<Running>& running = index == spec::kNetQueueReceive ? receive_ : transmit_;
    if (running == nullptr) return;
    // What was sent and not flushed reaches the guest: the state counts it.
    publish(running.get());
    interrupt();
    state = running->resources.queue.state();
    running.reset();
  });
  return state;
}

void Net::stop_broken(Running& running, const Error& error) {
  running.is_broken = true;
  running.watch.reset();
  running.resources.broken(error);
}

// --- From the guest ----------------------------------------------------------------------------

void Net::transmit_notified() {
  Running& running = *transmit_;
  running.resources.notify->drain();
  in_turn_ = true;
  const uint64_t before = counters_.from_guest.frames;
  Result<bool> is_more =
      reader_.run(running.resources.queue, running.agreement, *far_side_, counters_.from_guest);
  publish(&running);
  if (counters_.from_guest.frames != before) far_side_->on_batch_end();
  in_turn_ = false;
  interrupt();
  if (!is_more) {
    if (!running.is_broken) stop_broken(running, is_more.error());
  } else if (*is_more) {
    // The others on this loop have their turn first.
    running.resources.notify->signal();
  }
}

// --- To the guest ------------------------------------------------------------------------------

FrameSender::Abilities Net::abilities() const {
  if (receive_ == nullptr || receive_->is_broken) return {};
  const Agreement& agreement = receive_->agreement;
  return {.checksum = agreement.has(spec::kNetFeatureGuestChecksum),
          .tcp4 = agreement.has(spec::kNetFeatureGuestTcp4),
          .tcp6 = agreement.has(spec::kNetFeatureGuestTcp6)};
}

bool Net::send(std::span<const std::span<const std::byte>> pieces, const FrameOffload& offload) {
  if (receive_ == nullptr || receive_->is_broken) {
    is_room_wanted_ = true;
    counters_.refused++;
    return false;
  }
  Running& running = *receive_;
  size_t size = 0;
  for (std::span<const std::byte> piece : pieces) size += piece.size();
  const tl::expected<spec::NetHeader, Drop> header =
      net::make_header(offload, size, running.agreement);
  if (!header) {
    counters_.to_guest.dropped(header.error())++;
    return true;
  }
  Result<bool> is_taken = put(running, *header, pieces, size);
  if (is_taken && *is_taken) return true;
  is_room_wanted_ = true;
  counters_.refused++;
  if (!is_taken) {
    stop_broken(running, is_taken.error());
  } else {
    // The guest makes room out of what it has been told of.
    flush();
  }
  return false;
}

// Whether the frame is settled: written or, counted, dropped. If not, the driver has been asked to
// notify when it has made more room.
Result<bool> Net::put(Running& running, const spec::NetHeader& header,
                      std::span<const std::span<const std::byte>> pieces, size_t size) {
  Queue& queue = running.resources.queue;
  for (bool again : {false, true}) {
    const FrameWriter::Answer answer =
        TRY(writer_.write(queue, running.agreement, header, pieces, size));
    if (answer.outcome == FrameWriter::Outcome::kWritten) {
      counters_.to_guest.frames++;
      counters_.to_guest.bytes += size;
      return true;
    }
    if (answer.outcome == FrameWriter::Outcome::kNoSuchRoom) {
      counters_.to_guest.dropped(Drop::kNoSuchRoom)++;
      return true;
    }
    if (!TRY(queue.enable_notification(answer.waiting))) return false;
    // The driver was quicker; but it cannot keep the loop here.
    if (again) running.resources.notify->signal();
  }
  return false;
}

void Net::flush() {
  publish(receive_.get());
  interrupt();
}

void Net::receive_notified() {
  Running& running = *receive_;
  running.resources.notify->drain();
  // From here on only a frame that finds no room asks for notifications again.
  if (Result<void> told = running.resources.queue.disable_notification(); !told) {
    stop_broken(running, told.error());
    return;
  }
  if (!std::exchange(is_room_wanted_, false)) return;
  in_turn_ = true;
  far_side_->on_room();
  in_turn_ = false;
  interrupt();
}

// --- Interrupts --------------------------------------------------------------------------------

// Shows the driver what has been completed; the interrupt, if it wants one, comes with interrupt().
void Net::publish(Running* running) {
  if (running == nullptr || running->is_broken) return;
  Queue& queue = running->resources.queue;
  Result<void> published = queue.publish();
  if (!published) return stop_broken(*running, published.error());
  Result<bool> is_wanted = queue.should_interrupt();
  if (!is_wanted) return stop_broken(*running, is_wanted.error());
  running->is_interrupt_due |= *is_wanted;
}

// Raises what is due, once for both queues where they share an interrupt.
void Net::interrupt() {
  if (in_turn_) return;
  Interrupt* raised = nullptr;
  for (Running* running : {receive_.get(), transmit_.get()}) {
    if (running == nullptr || !std::exchange(running->is_interrupt_due, false)) continue;
    if (running->resources.interrupt != raised) running->resources.interrupt->raise();
    raised = running->resources.interrupt;
  }
}

}  // namespace hutch::virtio
