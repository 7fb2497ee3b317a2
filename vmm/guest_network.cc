#include "vmm/guest_network.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/sys.h"
#include "net/network.h"

namespace hutch::vmm {
namespace {

Result<policy::Policy> read_policy(const protocol::vmm::Policy& given) {
  if (given.allows_all) return policy::Policy::all();
  return policy::Policy::parse(given.patterns);
}

Result<IpAddress> read_address(std::span<const std::byte> bytes) {
  if (bytes.size() != 4 && bytes.size() != 16) return fail("a saved connection's address is none");
  std::array<uint8_t, 16> value{};
  std::memcpy(value.data(), bytes.data(), bytes.size());
  if (bytes.size() == 16) return IpAddress::v6(value);
  return IpAddress::v4(value[0], value[1], value[2], value[3]);
}

}  // namespace

Result<std::unique_ptr<GuestNetwork>> GuestNetwork::start(protocol::vmm::Network network) {
  policy::Policy policy = TRY(read_policy(network.policy));
  // Here: the thread's table has no call for it.
  TRY(set_nonblocking(network.broker.get()));
  std::unique_ptr<LoopThread> thread = TRY(LoopThread::start(ThreadKind::kNetwork));
  std::unique_ptr<GuestNetwork> self(new GuestNetwork(std::move(thread), std::move(policy),
                                                      network.ipv6, std::move(network.broker)));
  Result<void> started;
  self->thread_->loop().run_on_loop([&] { started = self->broker_->start(); });
  if (!started) return tl::unexpected(std::move(started).error());
  return self;
}

GuestNetwork::GuestNetwork(std::unique_ptr<LoopThread> thread, policy::Policy policy, bool ipv6,
                           Fd broker)
    : thread_(std::move(thread)),
      given_(std::make_unique<virtio::Net>(thread_->loop(),
                                           virtio::NetOptions{net::kGuestMac, net::kMtu})),
      device_(given_.get()),
      names_(
          std::move(policy), [this](const net::FlowTarget& target) { on_denied(target); }, ipv6) {
  Loop& loop = thread_->loop();
  loop.run_on_loop([&] {
    broker_ = std::make_unique<BrokerClient>(loop, std::move(broker));
    far_side_.backend = std::make_unique<net::Backend>(
        loop, *device_, net::Backend::Deciders{*broker_, names_, names_, names_}, net::TcpOptions(),
        ipv6);
    device_->connect(far_side_);
  });
}

GuestNetwork::~GuestNetwork() {
  disconnect();
}

std::unique_ptr<virtio::Device> GuestNetwork::take_device() {
  return std::move(given_);
}

void GuestNetwork::disconnect() {
  if (!far_side_.backend) return;
  thread_->loop().run_on_loop([&] {
    far_side_.backend.reset();
    broker_.reset();
  });
}

void GuestNetwork::on_denied(const net::FlowTarget& target) {
  constexpr uint64_t kAgainNs = 60'000'000'000;
  constexpr size_t kMaxKept = 64;
  uint64_t now = monotonic_ns();
  while (!denied_before_.empty() && now - denied_before_.front().time_ns > kAgainNs)
    denied_before_.pop_front();
  if (std::ranges::any_of(denied_before_, [&](const DeniedBefore& before) {
        return before.target.name == target.name && before.target.address == target.address &&
               before.target.port == target.port;
      }))
    return;
  if (!broker_ || denials_.take(1, now) == 0) return;
  if (denied_before_.size() == kMaxKept) denied_before_.pop_front();
  denied_before_.push_back({target, now});
  broker_->denied(target);
}

Result<void> GuestNetwork::set_policy(const protocol::vmm::Policy& given) {
  policy::Policy policy = TRY(read_policy(given));
  thread_->loop().run_on_loop([&] {
    names_.set_policy(std::move(policy));
    if (far_side_.backend)
      far_side_.backend->close_where(
          [&](const net::FlowTarget& target) { return !names_.allows(target); });
  });
  return {};
}

void GuestNetwork::add_to(std::vector<protocol::vmm::Counter>& counters) const {
  if (!far_side_.backend) return;
  auto add = [&](std::string name, uint64_t value) {
    if (value != 0) counters.push_back({"network/" + std::move(name), value});
  };
  thread_->loop().run_on_loop([&] {
    const virtio::net::Counters& device = device_->counters();
    add("frames_from_guest", device.from_guest.frames);
    add("bytes_from_guest", device.from_guest.bytes);
    add("frames_to_guest", device.to_guest.frames);
    add("bytes_to_guest", device.to_guest.bytes);
    const net::Counters& backend = far_side_.backend->counters();
    for (size_t i = 0; i < net::kDropReasons; i++)
      add(fmt::format("dropped/{}", net::drop_name(static_cast<net::Drop>(i))), backend.drops[i]);
    const net::Dns::Counters& dns = names_.dns_counters();
    add("names_answered", dns.answered);
    add("names_refused", dns.not_there);
    add("names_throttled", dns.throttled);
  });
}

snapshot::SavedNetwork GuestNetwork::save() {
  snapshot::SavedNetwork saved;
  thread_->loop().run_on_loop([&] {
    for (net::NameTable::Entry& entry : names_.table().save())
      saved.names.push_back({std::move(entry.name), entry.address});
    if (!far_side_.backend) return;
    for (const net::FlowRemains& flow : far_side_.backend->remains()) {
      auto address = std::as_bytes(flow.key.far.bytes());
      saved.flows.push_back({.far_address = {address.begin(), address.end()},
                             .far_port = flow.key.far_port,
                             .guest_port = flow.key.guest_port,
                             .sequence = flow.sequence,
                             .acknowledgement = flow.acknowledgement});
    }
  });
  return saved;
}

Result<void> GuestNetwork::restore(const snapshot::SavedNetwork& saved) {
  std::vector<net::NameTable::Entry> entries;
  for (const snapshot::SavedName& name : saved.names) entries.push_back({name.name, name.address});
  std::vector<net::FlowRemains> remains;
  for (const snapshot::SavedFlow& flow : saved.flows)
    remains.push_back({{TRY(read_address(flow.far_address)), flow.far_port, flow.guest_port},
                       flow.sequence,
                       flow.acknowledgement});
  Result<void> restored;
  thread_->loop().run_on_loop([&] {
    restored = names_.table().restore(entries, monotonic_ns());
    if (restored && far_side_.backend) restored = far_side_.backend->reset_remains(remains);
  });
  return restored;
}

}  // namespace hutch::vmm
