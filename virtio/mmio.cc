#include "virtio/mmio.h"

#include <algorithm>
#include <bit>
#include <cassert>
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
                                                             Device& device, Interrupt& interrupt,
                                                             std::span<std::byte> page) {
  std::vector<EventFd> events;
  for (size_t i = 0; i < device.traits().queue_sizes.size(); i++)
    events.push_back(TRY_CONTEXT(name, EventFd::create()));
  return std::unique_ptr<MmioTransport>(
      new MmioTransport(name, memory, device, interrupt, std::move(events), page));
}

MmioTransport::MmioTransport(const char* name, const GuestMemory& memory, Device& device,
                             Interrupt& interrupt, std::vector<EventFd> notify_events,
                             std::span<std::byte> page)
    : name_(name),
      memory_(memory),
      device_(device),
      interrupt_(interrupt),
      traits_(device.traits()),
      offered_features_(traits_.features | spec::kFeatureVersion1 | spec::kFeatureEventIndex |
                        spec::kFeatureIndirectDescriptors),
      notify_events_(std::move(notify_events)),
      own_page_(page.empty() ? kSize / sizeof(uint32_t) : 0),
      page_(page.empty() ? std::as_writable_bytes(std::span(own_page_)) : page) {
  assert(page_.size() == kSize && traits_.config_size <= kSize - spec::kRegisterConfig);
  show_constants();
  show_config();
  reset();
}

MmioTransport::~MmioTransport() {
  std::lock_guard lock(mutex_);
  stop_queues();
}

// --- What the guest reads ------------------------------------------------------------------------

std::atomic_ref<uint32_t> MmioTransport::shown(uint64_t offset) const {
  static_assert(std::endian::native == std::endian::little);
  return std::atomic_ref(*reinterpret_cast<uint32_t*>(page_.data() + offset));
}

void MmioTransport::show(uint64_t offset, uint32_t value) const {
  shown(offset).store(value, std::memory_order_release);
}

void MmioTransport::show_constants() {
  show(spec::kRegisterMagic, spec::kMmioMagic);
  show(spec::kRegisterVersion, spec::kMmioVersion);
  show(spec::kRegisterDeviceId, traits_.device_id);
  show(spec::kRegisterVendorId, kVendorId);
  // There is no such region.
  for (uint64_t offset :
       {spec::kRegisterSharedMemoryLengthLow, spec::kRegisterSharedMemoryLengthHigh,
        spec::kRegisterSharedMemoryBaseLow, spec::kRegisterSharedMemoryBaseHigh})
    show(offset, UINT32_MAX);
}

// Under the lock: after anything under it has changed.
void MmioTransport::show_changes() {
  show(spec::kRegisterDeviceFeatures, half(offered_features_, device_features_select_));
  const QueueConfig* queue = selected_queue();
  show(spec::kRegisterQueueSizeMax, queue != nullptr ? traits_.queue_sizes[queue_select_] : 0);
  show(spec::kRegisterQueueReady, queue != nullptr && queue->is_ready ? 1 : 0);
  show(spec::kRegisterStatus, status_);
  // Looked at after the store, which may have undone what broken() showed.
  if (needs_reset_.load()) shown(spec::kRegisterStatus).fetch_or(spec::kStatusNeedsReset);
}

void MmioTransport::show_config() {
  std::vector<uint8_t> bytes(kSize - spec::kRegisterConfig, uint8_t{0xff});
  device_.read_config(0, std::span(bytes).first(traits_.config_size));
  for (size_t i = 0; i < bytes.size(); i += sizeof(uint32_t)) {
    uint32_t word;
    std::memcpy(&word, &bytes[i], sizeof word);
    show(spec::kRegisterConfig + i, word);
  }
}

void MmioTransport::read(uint64_t offset, std::span<uint8_t> data) {
  std::fill(data.begin(), data.end(), uint8_t{0xff});
  if (offset > kSize || data.size() > kSize - offset) return;
  if (offset < spec::kRegisterConfig && (offset % 4 != 0 || data.size() != 4)) return;
  for (size_t i = 0; i < data.size(); i++) {
    const uint64_t at = offset + i;
    const uint32_t word = shown(at & ~uint64_t{3}).load(std::memory_order_acquire);
    data[i] = static_cast<uint8_t>(word >> (8 * (at % 4)));
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

void MmioTransport::write_config(uint64_t offset, std::span<const uint8_t> data) {
  if (offset > traits_.config_size || data.size() > traits_.config_size - offset) return;
  std::lock_guard lock(mutex_);
  device_.write_config(static_cast<uint32_t>(offset), data);
  show_config();
}

void MmioTransport::write_register(uint64_t offset, uint32_t value) {
  // These come with each interrupt or notification: without the lock.
  if (offset == spec::kRegisterInterruptAcknowledge) {
    shown(spec::kRegisterInterruptStatus).fetch_and(~value);
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
      return;
  }
  show_changes();
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
  Queue queue = TRY(
      Queue::create(memory_, config.layout, traits_.queue_sizes[index], driver_features_, state));
  QueueResources resources{
      .queue = std::move(queue),
      .notify = &notify_events_[index],
      .interrupt = &used_buffer_interrupt_,
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
  saved.needs_reset = needs_reset_.load();
  saved.interrupt_status = shown(spec::kRegisterInterruptStatus).load();
  saved.config_generation = shown(spec::kRegisterConfigGeneration).load();
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
  show(spec::kRegisterConfigGeneration, saved.config_generation);
  needs_reset_.store(saved.needs_reset);
  show(spec::kRegisterInterruptStatus,
       saved.interrupt_status & (spec::kInterruptUsedBuffer | spec::kInterruptConfigChange));
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
  show_changes();
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
  needs_reset_.store(false);
  show(spec::kRegisterInterruptStatus, 0);
  show_changes();
}

void MmioTransport::raise(uint32_t interrupt_status) {
  shown(spec::kRegisterInterruptStatus).fetch_or(interrupt_status);
  interrupt_.raise();
}

void MmioTransport::configuration_changed() {
  show_config();
  shown(spec::kRegisterConfigGeneration).fetch_add(1);
  raise(spec::kInterruptConfigChange);
}

void MmioTransport::broken(const Error& error) {
  if (needs_reset_.exchange(true)) return;
  shown(spec::kRegisterStatus).fetch_or(spec::kStatusNeedsReset);
  if (complaints_.allow())
    log_warning("{}: stopped until the guest resets it: {}", name_, error.text());
  raise(spec::kInterruptConfigChange);
}

}  // namespace hutch::virtio
