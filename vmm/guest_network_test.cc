// The network's thread, with a broker that this test plays and no guest.
#include "vmm/guest_network.h"

#include <doctest/doctest.h>
#include <malloc.h>
#include <sys/socket.h>

#include "base/sys.h"
#include "protocol/broker.h"

using namespace hutch;
using namespace hutch::vmm;
namespace wire = hutch::protocol::broker;

namespace {

struct Started {
  Fd broker;
  Result<std::unique_ptr<GuestNetwork>> network;
};

Started start(std::vector<std::string> patterns) {
  // As in hutch-vmm: a heap of its own is more than the thread's filter lets it have.
  ::mallopt(M_ARENA_MAX, 1);
  auto [ours, its] = socket_pair(SOCK_SEQPACKET).value();
  protocol::vmm::Network options;
  options.policy.patterns = std::move(patterns);
  options.broker = std::move(its);
  return {std::move(ours), GuestNetwork::start(std::move(options))};
}

}  // namespace

TEST_CASE("the network's thread is narrow, changes its policy, and ends") {
  Started started = start({"a.test"});
  REQUIRE(started.network);
  GuestNetwork& network = **started.network;
  CHECK(network.check_narrow());
  std::unique_ptr<virtio::Device> device = network.take_device();
  REQUIRE(device);
  CHECK_FALSE(network.take_device());
  protocol::vmm::Policy policy;
  policy.patterns = {"b.test"};
  CHECK(network.set_policy(policy));
  policy.patterns = {"*"};
  CHECK_FALSE(network.set_policy(policy));
  // Nothing has passed: no counter but those that are not 0 is told.
  std::vector<protocol::vmm::Counter> counters;
  network.add_to(counters);
  CHECK(counters.empty());
  network.disconnect();
  // Whoever is at the broker's end sees it.
  REQUIRE(set_nonblocking(started.broker.get()).has_value());
  Result<ReceivedMessage> message = receive_message(started.broker.get(), wire::kMaxMessage);
  REQUIRE(message);
  CHECK(message->bytes.empty());
}

TEST_CASE("the network starts within its table, however soon its thread runs") {
  // Until the loop runs its calls are made here, and from then on there: both must be allowed.
  for (int i = 0; i < 300; i++) {
    Started started = start({"a.test"});
    REQUIRE(started.network);
    CHECK((*started.network)->check_narrow());
    std::unique_ptr<virtio::Device> device = (*started.network)->take_device();
    (*started.network)->disconnect();
  }
}

TEST_CASE("what is restored of a network is checked first") {
  Started started = start({"a.test"});
  REQUIRE(started.network);
  GuestNetwork& network = **started.network;
  std::unique_ptr<virtio::Device> device = network.take_device();
  auto address = [](size_t size) { return snapshot::Bytes(size, std::byte{9}); };
  CHECK_FALSE(network.restore({.flows = {{.far_address = address(5)}}}));
  CHECK_FALSE(network.restore({.names = {{"a.test", 0x01020304}}}));
  CHECK_FALSE(network.restore(
      {.flows = std::vector<snapshot::SavedFlow>(2000, {.far_address = address(4)})}));
  // Of another kind than its own addresses, and no driver that would take the resets.
  CHECK(network.restore({.names = {{"a.test", 0xc6120005}},
                         .flows = {{.far_address = address(16)}, {.far_address = address(4)}}}));
  CHECK(network.save().names.size() == 1);
  CHECK(network.save().flows.empty());
  network.disconnect();
}

TEST_CASE("a network without a policy that can be read does not start") {
  Started started = start({"a.test", "*.com"});
  REQUIRE_FALSE(started.network);
  CHECK(started.network.error().message.find("*.com") != std::string::npos);
}
