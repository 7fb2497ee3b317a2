#include "virtio/mmio.h"

#include <algorithm>
#include <cstring>

namespace hutch::virtio {
namespace {

// Section 4.2.2 wants a vendor for the device; this one spells "HTCH" in memory.
constexpr uint32_t kVendorId = 0x48435448;
constexpr uint32_t kDriverStatusBits = spec::kStatusAcknowledge | spec::kStatusDriver |
                                       spec::kStatusFeaturesOk | spec::kStatusDriverOk |
                                       spec::kStatusFailed;

uint32_t half(uint64_t value, uint32_t select) {
  if (select > 1) return 0;
  return static_cast<uint32_t>(value >> (32 * select));
}

uint64_t with_half(uint64_t value, bool high, uint32_t part) {
  return high ? (value & 0xffff'ffffu) | static_cast<uint64_t>(part) << 32
              : (value & ~0xffff'ffffull) | part;
}

}  // namespace

Result<std::unique_ptr<MmioTransport>> MmioTransport::create(const char* name,
                                                             const GuestMemory& memory,
                                                             Device& device, Interrupt& interrupt) {
  std::vector<EventFd> events;
  for (size_t i = 0; i < device.traits().queue_sizes.size(); i++)
    events.push_back(TRY_CONTEXT(name, EventFd::create()));
  return std::unique_ptr<MmioTransport>(
      new MmioTransport(name, memory, device, interrupt, std::move(events)));
}

MmioTransport::MmioTransport(const char* name, const GuestMemory& memory, Device& device,
                             Interrupt& interrupt, std::vector<EventFd> notify_events)
    : name_(name),
      memory_(memory),
      device_(device),
      interrupt_(interrupt),
      traits_(device.traits()),
      offered_features_(traits_.features | spec::kFeatureVersion1 | spec::kFeatureEventIndex |
                        spec::kFeatureIndirectDescriptors),
      notify_events_(std::move(notify_events)) {
  reset();
}

MmioTransport::~MmioTransport() {
  std::lock_guard lock(mutex_);
  stop_queues();
}

void MmioTransport::read(uint64_t offset, std::span<uint8_t> data) {
  if (offset >= spec::kRegisterConfig) {
    read_config(offset - spec::kRegisterConfig, data);
  } else if (offset % 4 != 0 || data.size() != 4) {
    std::fill(data.begin(), data.end(), uint8_t{0xff});
  } else {
    le32 value = read_register(offset);
    std::memcpy(data.data(), &value, sizeof value);
  }
}

void MmioTransport::write(uint64_t offset, std::span<const uint8_t> data) {
  if (offset >= spec::kRegisterConfig) {
    write_config(offset - spec::kRegisterConfig, data);
  } else if (offset % 4 == 0 && data.size() == 4) {
    le32 value;
    std::memcpy(&value, data.data(), sizeof value);
    write_register(offset, value);
  }
}

void MmioTransport::read_config(uint64_t offset, std::span<uint8_t> data) {
  std::fill(data.begin(), data.end(), uint8_t{0xff});
  if (offset > traits_.config_size || data.size() > traits_.config_size - offset) return;
  std::lock_guard lock(mutex_);
  device_.read_config(static_cast<uint32_t>(offset), data);
}

void MmioTransport::write_config(uint64_t offset, std::span<const uint8_t> data) {
  if (offset > traits_.config_size || data.size() > traits_.config_size - offset) return;
  std::lock_guard lock(mutex_);
  device_.write_config(static_cast<uint32_t>(offset), data);
}

uint32_t MmioTransport::read_register(uint64_t offset) {
  // Read for each interrupt: without the lock.
  if (offset == spec::kRegisterInterruptStatus)
    return interrupt_status_.load(std::memory_order_acquire);

  std::lock_guard lock(mutex_);
  switch (offset) {
    case spec::kRegisterMagic:
      return spec::kMmioMagic;
    case spec::kRegisterVersion:
      return spec::kMmioVersion;
    case spec::kRegisterDeviceId:
      return traits_.device_id;
    case spec::kRegisterVendorId:
      return kVendorId;
    case spec::kRegisterDeviceFeatures:
      return half(offered_features_, device_features_select_);
    case spec::kRegisterQueueSizeMax:
      return selected_queue() != nullptr ? traits_.queue_sizes[queue_select_] : 0;
    case spec::kRegisterQueueReady:
      return selected_queue() != nullptr && selected_queue()->is_ready ? 1 : 0;
    case spec::kRegisterStatus:
      return status_ | (needs_reset_.load(std::memory_order_acquire) ? spec::kStatusNeedsReset : 0);
    case spec::kRegisterSharedMemoryLengthLow:
    case spec::kRegisterSharedMemoryLengthHigh:
    case spec::kRegisterSharedMemoryBaseLow:
    case spec::kRegisterSharedMemoryBaseHigh:
      return UINT32_MAX;  // there is no such region
    case spec::kRegisterConfigGeneration:
      return config_generation_.load(std::memory_order_acquire);
    default:
      return 0;
  }
}

void MmioTransport::write_register(uint64_t offset, uint32_t value) {
  // These come with each interrupt or notification: without the lock.
  if (offset == spec::kRegisterInterruptAcknowledge) {
    interrupt_status_.fetch_and(~value, std::memory_order_acq_rel);
    return;
  }
  if (offset == spec::kRegisterQueueNotify) {
    if (value < notify_events_.size()) notify_events_[value].signal();
    return;
  }

  std::lock_guard lock(mutex_);
  switch (offset) {
    case spec::kRegisterDeviceFeaturesSelect:
      device_features_select_ = value;
      break;
    case spec::kRegisterDriverFeatures:
      write_driver_features(value);
      break;
    case spec::kRegisterDriverFeaturesSelect:
      driver_features_select_ = value;
      break;
    case spec::kRegisterQueueSelect:
      queue_select_ = value;
      break;
    case spec::kRegisterQueueSize:
      if (QueueConfig* queue = configurable_queue()) queue->layout.size = value;
      break;
    case spec::kRegisterQueueReady:
      if (QueueConfig* queue = selected_queue(); queue != nullptr &&
                                                 (value == 0 || configurable_queue() != nullptr) &&
                                                 (status_ & spec::kStatusDriverOk) == 0)
        queue->is_ready = value == 1;
      break;
    case spec::kRegisterStatus:
      write_status(value);
      break;
    case spec::kRegisterQueueDescriptorsLow:
    case spec::kRegisterQueueDescriptorsHigh:
      write_queue_address(&QueueLayout::descriptors, offset == spec::kRegisterQueueDescriptorsHigh,
                          value);
      break;
    case spec::kRegisterQueueDriverLow:
    case spec::kRegisterQueueDriverHigh:
      write_queue_address(&QueueLayout::available, offset == spec::kRegisterQueueDriverHigh, value);
      break;
    case spec::kRegisterQueueDeviceLow:
    case spec::kRegisterQueueDeviceHigh:
      write_queue_address(&QueueLayout::used, offset == spec::kRegisterQueueDeviceHigh, value);
      break;
    default:
      break;
  }
}

// The queue that the guest selected, if there is such a queue.
MmioTransport::QueueConfig* MmioTransport::selected_queue() {
  return queue_select_ < queues_.size() ? &queues_[queue_select_] : nullptr;
}

// The selected queue while the driver may still change it.
MmioTransport::QueueConfig* MmioTransport::configurable_queue() {
  if ((status_ & (spec::kStatusFeaturesOk | spec::kStatusDriverOk)) != spec::kStatusFeaturesOk)
    return nullptr;
  QueueConfig* queue = selected_queue();
  return queue != nullptr && !queue->is_ready ? queue : nullptr;
}

void MmioTransport::write_queue_address(GuestAddress QueueLayout::*address, bool high,
                                        uint32_t value) {
  QueueConfig* queue = configurable_queue();
  if (queue == nullptr) return;
  GuestAddress& field = queue->layout.*address;
  field = GuestAddress(with_half(field.value(), high, value));
}

void MmioTransport::write_driver_features(uint32_t value) {
  if ((status_ & spec::kStatusFeaturesOk) != 0) return;
  if (driver_features_select_ <= 1) {
    driver_features_ = with_half(driver_features_, driver_features_select_ == 1, value);
  } else if (value != 0) {
    unknown_features_ = true;
  }
}

bool MmioTransport::features_acceptable() const {
  return (driver_features_ & ~offered_features_) == 0 && !unknown_features_ &&
         (driver_features_ & spec::kFeatureVersion1) != 0;
}

// Section 3.1.1: each step only after the one before it; only a reset clears a bit.
void MmioTransport::write_status(uint32_t value) {
  if (value == 0) {
    reset();
    return;
  }
  if ((status_ & ~value) != 0) {
    if (complaints_.allow())
      log_warning("{}: the guest's driver clears status bits {:#x} without a reset; ignored", name_,
                  status_ & ~value);
    return;
  }
  const uint32_t added = value & ~status_ & kDriverStatusBits;
  auto follows = [&](uint32_t bit, uint32_t earlier) {
    return (added & bit) != 0 && (status_ & earlier) == earlier;
  };
  status_ |= added & (spec::kStatusAcknowledge | spec::kStatusFailed);
  if (follows(spec::kStatusDriver, spec::kStatusAcknowledge)) status_ |= spec::kStatusDriver;
  if (follows(spec::kStatusFeaturesOk, spec::kStatusDriver) && features_acceptable())
    status_ |= spec::kStatusFeaturesOk;
  if (follows(spec::kStatusDriverOk, spec::kStatusFeaturesOk)) {
    status_ |= spec::kStatusDriverOk;
    start_queues();
  }
}

void MmioTransport::start_queues() {
  for (uint16_t index = 0; index < queues_.size(); index++) {
    if (!queues_[index].is_ready) continue;
    Result<void> started = start_queue(index, {});
    if (started) continue;
    stop_queues();
    broken(started.error());
    return;
  }
}

Result<void> MmioTransport::start_queue(uint16_t index, QueueState state) {
  QueueConfig& config = queues_[index];
  QueueResources resources {
    .queue = TRY(
        Queue::create(memory_, config.layout, traits_.queue_sizes[index], driver_features_, state))
    , .notify = &notify_events_[index], .interrupt = &used_buffer_interrupt_,
      .broken = [this](const Error& error) { broken(error); },
  };
  TRY(device_.start_queue(index, std::move(resources), driver_features_));
  config.is_running = true;
  return {};
}

void MmioTransport::stop_queues() {
  for (uint16_t index = 0; index < queues_.size(); index++) {
    device_.stop_queue(index);
    queues_[index].is_running = false;
  }
}

void MmioTransport::pause() {
  std::lock_guard lock(mutex_);
  for (uint16_t index = 0; index < queues_.size(); index++) {
    if (!queues_[index].is_running) continue;
    queues_[index].paused = device_.stop_queue(index);
    queues_[index].is_running = false;
  }
}

Result<void> MmioTransport::resume() {
  std::lock_guard lock(mutex_);
  for (uint16_t index = 0; index < queues_.size(); index++) {
    std::optional<QueueState> state = std::exchange(queues_[index].paused, std::nullopt);
    if (state) TRY_CONTEXT(name_, start_queue(index, *state));
  }
  if (std::exchange(was_restored_, false) && (status_ & spec::kStatusDriverOk) != 0)
    raise(spec::kInterruptUsedBuffer);
  return {};
}

snapshot::SavedTransport MmioTransport::save() {
  std::lock_guard lock(mutex_);
  snapshot::SavedTransport saved;
  saved.status = status_;
  saved.device_features_select = device_features_select_;
  saved.driver_features_select = driver_features_select_;
  saved.queue_select = queue_select_;
  saved.driver_features = driver_features_;
  saved.has_unknown_features = unknown_features_;
  saved.needs_reset = needs_reset_.load(std::memory_order_acquire);
  saved.interrupt_status = interrupt_status_.load(std::memory_order_acquire);
  saved.config_generation = config_generation_.load(std::memory_order_acquire);
  for (const QueueConfig& queue : queues_) {
    QueueState state = queue.paused.value_or(QueueState());
    saved.queues.push_back({queue.layout.size, queue.layout.descriptors.value(),
                            queue.layout.available.value(), queue.layout.used.value(),
                            queue.is_ready, queue.paused.has_value(), state.next_available,
                            state.next_used});
  }
  return saved;
}

// Section 3.1.1: each step only after the one before it.
Result<void> MmioTransport::check_status(uint32_t status) const {
  uint32_t before = spec::kStatusAcknowledge;
  for (uint32_t step : {spec::kStatusDriver, spec::kStatusFeaturesOk, spec::kStatusDriverOk}) {
    if ((status & step) != 0 && (status & before) == 0)
      return fail(fmt::format("{}: no driver gets to status {:#x}", name_, status));
    before = step;
  }
  if ((status & ~kDriverStatusBits) != 0)
    return fail(fmt::format("{}: there is no status {:#x}", name_, status));
  if ((status & spec::kStatusFeaturesOk) != 0 && !features_acceptable())
    return fail(fmt::format("{}: features {:#x} were agreed on, which it does not have", name_,
                            driver_features_));
  return {};
}

Result<void> MmioTransport::restore(const snapshot::SavedTransport& saved) {
  std::lock_guard lock(mutex_);
  if (saved.queues.size() != queues_.size())
    return fail(
        fmt::format("{} has {} queues instead of {}", name_, saved.queues.size(), queues_.size()));
  driver_features_ = saved.driver_features;
  unknown_features_ = saved.has_unknown_features;
  TRY(check_status(saved.status));
  status_ = saved.status;
  device_features_select_ = saved.device_features_select;
  driver_features_select_ = saved.driver_features_select;
  queue_select_ = saved.queue_select;
  config_generation_.store(saved.config_generation, std::memory_order_release);
  needs_reset_.store(saved.needs_reset, std::memory_order_release);
  interrupt_status_.store(
      saved.interrupt_status & (spec::kInterruptUsedBuffer | spec::kInterruptConfigChange),
      std::memory_order_release);
  for (size_t i = 0; i < queues_.size(); i++) {
    const snapshot::SavedQueue& from = saved.queues[i];
    if (from.is_running && (!from.is_ready || (status_ & spec::kStatusDriverOk) == 0))
      return fail(fmt::format("{}: queue {} runs without its driver", name_, i));
    queues_[i].layout = {from.size, GuestAddress(from.descriptors), GuestAddress(from.available),
                         GuestAddress(from.used)};
    queues_[i].is_ready = from.is_ready;
    if (from.is_running) queues_[i].paused = QueueState{from.next_available, from.next_used};
  }
  was_restored_ = true;
  return {};
}

void MmioTransport::reset() {
  stop_queues();
  device_.reset();
  status_ = 0;
  device_features_select_ = 0;
  driver_features_select_ = 0;
  driver_features_ = 0;
  unknown_features_ = false;
  queue_select_ = 0;
  queues_.assign(traits_.queue_sizes.size(), {});
  for (size_t i = 0; i < queues_.size(); i++) queues_[i].layout.size = traits_.queue_sizes[i];
  for (const EventFd& event : notify_events_) event.drain();
  // The device touches no queue any more, so nothing sets these again.
  needs_reset_.store(false, std::memory_order_release);
  interrupt_status_.store(0, std::memory_order_release);
}

void MmioTransport::raise(uint32_t interrupt_status) {
  interrupt_status_.fetch_or(interrupt_status, std::memory_order_acq_rel);
  interrupt_.raise();
}

void MmioTransport::configuration_changed() {
  config_generation_.fetch_add(1, std::memory_order_acq_rel);
  raise(spec::kInterruptConfigChange);
}

void MmioTransport::broken(const Error& error) {
  if (needs_reset_.exchange(true, std::memory_order_acq_rel)) return;
  if (complaints_.allow())
    log_warning("{}: stopped until the guest resets it: {}", name_, error.text());
  raise(spec::kInterruptConfigChange);
}

}  // namespace hutch::virtio
