// The rows of the table of attacks (tests/egress/run) that need the guest's memory, or more time
// than there is: frames that change while they are taken (B26), headers that lie about them (B27),
// 200,000 names (B12), and names of a snapshot (B13). Each under the policy that EGRESS_POLICY
// names: none, listed or all. EGRESS_FRAMES is how many frames B26 sends.
#include <doctest/doctest.h>

#include <atomic>
#include <cstdlib>
#include <map>
#include <random>
#include <set>
#include <thread>

#include "net/backend.h"
#include "net/names.h"
#include "net/network.h"
#include "tests/net/frames.h"
#include "tests/net_machine.h"

namespace hutch::testing {
namespace {

using policy::Policy;

std::string policy_name() {
  const char* name = std::getenv("EGRESS_POLICY");
  return name == nullptr ? "listed" : name;
}

Policy the_policy() {
  if (policy_name() == "all") return Policy::all();
  if (policy_name() == "none") return Policy();
  REQUIRE(policy_name() == "listed");
  return Policy::parse(std::vector<std::string>{"*.wild.test", "93.184.216.34:443"}).value();
}

uint64_t frame_count() {
  const char* count = std::getenv("EGRESS_FRAMES");
  return count == nullptr ? 100'000 : std::strtoull(count, nullptr, 10);
}

// Refuses every flow a moment later, and keeps where it was to go.
class RecordingOpener final : public net::FlowOpener {
 public:
  explicit RecordingOpener(Loop& loop) : loop_(loop) {}
  std::unique_ptr<net::FlowHandle> open(const net::FlowTarget& target,
                                        net::OpenCallbacks callbacks) override {
    asked[target.address]++;
    auto handle = std::make_unique<Handle>();
    loop_.post([alive = std::weak_ptr<int>(handle->alive), refused = std::move(callbacks.refused)] {
      if (!alive.expired()) refused();
    });
    return handle;
  }
  std::map<IpAddress, uint64_t> asked;

 private:
  struct Handle final : public net::FlowHandle {
    void ended(const net::FlowTotals&) override {}
    void classify(std::span<const std::byte>) override {}
    std::shared_ptr<int> alive = std::make_shared<int>();
  };
  Loop& loop_;
};

// A device, all that the product has behind it, and nobody who would connect.
struct Sandbox {
  NetMachine machine{kAllFeatures, {.mac = net::kGuestMac}};
  RecordingOpener opener{*machine.loop};
  net::Names names{the_policy()};
  net::Backend backend{*machine.loop,
                       machine.device,
                       {opener, names, names, names},
                       {.syn_burst = 1u << 30, .syns_per_second = 1u << 30}};
  Sandbox() { machine.device.connect(backend); }

  // That only what may be was asked for, and that it was.
  void check_asked(const IpAddress& listed, const IpAddress& other) {
    const std::string policy = policy_name();
    for (const auto& asked : opener.asked) {
      const IpAddress& address = asked.first;
      CAPTURE(address.text());
      CHECK((address == listed || address == other));
    }
    CHECK((opener.asked[listed] > 0) == (policy != "none"));
    if (policy != "all") CHECK(opener.asked[other] == 0);
  }
};

const IpAddress kListed = IpAddress::v4(93, 184, 216, 34);
// Of the same sum: the checksum holds for both.
const IpAddress kOther = IpAddress::v4(216, 34, 93, 184);
const net::TcpSegment kSyn{.flags = net::tcp::kSyn};

// One address for the other, as a guest's other processor could. Without instrumentation, since the
// race is meant.
__attribute__((no_sanitize("thread"))) void write_address(std::byte* where,
                                                          const IpAddress& address) {
  auto* at = reinterpret_cast<volatile uint8_t*>(where);
  for (size_t i = 0; i < 4; i++) at[i] = address.bytes()[i];
}

TEST_CASE("B26: a destination that changes while the frame is taken") {
  Sandbox sandbox;
  NetMachine& machine = sandbox.machine;
  FrameMaker maker;
  Bytes all = bytes_of(spec::NetHeader{.flags = spec::kNetNeedsChecksum,
                                       .segmentation = 0,
                                       .header_length = 0,
                                       .segment_size = 0,
                                       .checksum_start = kTcp,
                                       .checksum_offset = 16,
                                       .buffer_count = 0});
  const Bytes frame = maker.tcp(kSyn, "");
  all.insert(all.end(), frame.begin(), frame.end());
  GuestAddress where(0x1900000);
  REQUIRE(machine.memory.write_bytes(where, all));
  auto* host = static_cast<std::byte*>(machine.memory.view({where, all.size()})->iov_base);
  std::byte* frame_at = host + virtio::net::kHeaderSize;
  std::atomic<bool> stop{false};
  std::thread flipper([&] {
    while (!stop.load(std::memory_order_relaxed)) {
      write_address(frame_at + 30, kOther);
      write_address(frame_at + 30, kListed);
    }
  });
  auto dropped = [&] {
    return sandbox.backend.counters().dropped(net::Drop::kTcpNoName) +
           sandbox.backend.counters().dropped(net::Drop::kIpChecksum);
  };
  uint16_t port = 0;
  uint64_t frames = 0;
  // On a busy host the other thread may not run for long: until it has been seen at work.
  auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (frames < frame_count() ||
         (dropped() == 0 && std::chrono::steady_clock::now() < deadline)) {
    // Each from another port, or it would be of a flow that there is.
    port++;
    frame_at[34] = static_cast<std::byte>(port >> 8);
    frame_at[35] = static_cast<std::byte>(port);
    std::move(machine.tx.request().readable_at(where, static_cast<uint32_t>(all.size()))).submit();
    machine.driver.kick(spec::kNetQueueTransmit);
    REQUIRE(machine.loop->run_once(0));
    while (machine.tx.take_used()) {
    }
    if (++frames % 1000 == 0) std::this_thread::yield();
  }
  stop = true;
  flipper.join();
  sandbox.check_asked(kListed, kOther);
  CHECK(dropped() > 0);
  MESSAGE(frames, " frames, ", sandbox.backend.counters().flows_asked, " asked for");
}

TEST_CASE("B27: headers that lie about where things are in a frame") {
  Sandbox sandbox;
  FrameMaker maker, forged;
  forged.destination = kOther;
  const Bytes inner = forged.tcp(kSyn, "");
  std::mt19937 random(27);
  auto number = [&](unsigned size) {
    // Often somewhere in the frame.
    return static_cast<uint16_t>(random() % 3 == 0 ? random() : random() % size);
  };
  for (unsigned i = 0; i < 50'000; i++) {
    maker.guest_port = static_cast<uint16_t>(1 + i % 65535);
    // Behind the true headers, others.
    const Bytes frame = maker.tcp(kSyn, text(std::span(inner).subspan(random() % 15)));
    const auto size = static_cast<unsigned>(frame.size());
    spec::NetHeader header{};
    header.flags = static_cast<uint8_t>(random() % 4);
    header.segmentation = static_cast<uint8_t>(random() % 4 == 0 ? random() : random() % 6);
    header.header_length = number(size);
    header.segment_size = number(size);
    header.checksum_start = random() % 2 == 0 ? kTcp : number(size);
    header.checksum_offset = random() % 2 == 0 ? uint16_t{16} : number(40);
    header.buffer_count = number(4);
    sandbox.machine.transmit(header, frame);
    REQUIRE(sandbox.machine.loop->run_once(0));
  }
  CHECK(!sandbox.machine.driver.needs_reset());
  CHECK(sandbox.opener.asked[kOther] == 0);
  CHECK((sandbox.opener.asked[kListed] > 0) == (policy_name() != "none"));
  CHECK(sandbox.machine.device.counters().from_guest.dropped(virtio::net::Drop::kSegmentation) > 0);
}

// A question for the address of a name.
Bytes question(const std::string& name) {
  Bytes message = bytes({0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0});
  for (size_t start = 0; start < name.size();) {
    const size_t end = std::min(name.find('.', start), name.size());
    message.push_back(static_cast<std::byte>(end - start));
    append(message, std::string_view(name).substr(start, end - start));
    start = end + 1;
  }
  append(message, std::string_view("\0\0\1\0\1", 5));
  return message;
}

// The address in an answer.
std::optional<IpAddress> answered(const Bytes& answer) {
  if (answer.size() < 16 || read_at<uint8_t>(answer, 7) == 0) return std::nullopt;
  auto at = [&](size_t i) { return read_at<uint8_t>(answer, answer.size() - 4 + i); };
  return IpAddress::v4(at(0), at(1), at(2), at(3));
}

TEST_CASE("B12: 200,000 names: a cap, and no address for another name while it may be meant") {
  const Policy policy = the_policy();
  net::NameTable table;
  net::Dns dns(policy, table);
  struct Use {
    std::string name;
    uint64_t time;
  };
  std::map<IpAddress, Use> last;
  std::map<IpAddress, std::string> held;
  uint64_t wrong = 0, given = 0, refused = 0, again = 0, clock = 1'000'000'000;
  for (uint64_t i = 0; i < 200'000; i++) {
    // As many a second as are answered; then bursts, of which the most are put off.
    clock += i % 4000 < 3000 ? 200'000'000 : 1'000'000;
    const std::string name = fmt::format("n{}.wild.test", i);
    std::optional<IpAddress> address = answered(dns.answer(question(name), clock));
    if (!address) {
      refused++;
      continue;
    }
    given++;
    auto found = last.find(*address);
    if (found != last.end()) {
      again++;
      wrong += clock - found->second.time < net::NameTable::kRestNs;
    }
    wrong += held.contains(*address);
    last[*address] = {name, clock};
    if (given % 1000 == 1 && held.size() < 150) {
      table.hold(*address);
      held[*address] = name;
    }
  }
  CHECK(wrong == 0);
  CHECK(table.size() <= net::NameTable::kMaxNames);
  for (const auto& one : held) CHECK(table.find(one.first, 1ull << 50) == one.second);
  MESSAGE(given, " given, ", refused, " refused, ", again, " addresses used again");
  CHECK((given > 0) == (policy_name() != "none"));
  CHECK(refused > 0);
  if (policy_name() != "none") CHECK(again > 0);
}

TEST_CASE("B13: addresses of a snapshot stand for the same name or for nothing") {
  std::vector<net::NameTable::Entry> saved;
  {
    net::NameTable before;
    for (int i = 0; i < 1000; i++) {
      before.assign(fmt::format("n{}.wild.test", i), 1);
      before.assign(fmt::format("n{}.gone.test", i), 1);
    }
    saved = before.save();
  }
  net::Names names(the_policy());
  REQUIRE(names.table().restore(saved, 1));
  std::set<uint32_t> old;
  for (const net::NameTable::Entry& entry : saved) {
    old.insert(entry.address);
    const std::optional<std::string> found = names.find(IpAddress::v4(entry.address));
    const bool is_known =
        policy_name() == "all" || (policy_name() == "listed" && entry.name.ends_with(".wild.test"));
    CHECK(found.has_value() == is_known);
    if (found) CHECK(*found == entry.name);
    // Nor is it an address of its own.
    CHECK(!names.allows(IpAddress::v4(entry.address), 443));
  }
  for (int i = 0; i < 400; i++) {
    auto answer = names.answer(question(fmt::format("new{}.wild.test", i)), 512);
    REQUIRE(answer);
    std::optional<IpAddress> address = answered(*answer);
    CHECK(address.has_value() == (policy_name() != "none"));
    if (address) CHECK(!old.contains(address->v4_value()));
  }
  // A list that was changed is refused whole.
  saved[1].address = saved[0].address;
  net::NameTable broken;
  CHECK(!broken.restore(saved, 1));
  CHECK(broken.size() == 0);
}

}  // namespace
}  // namespace hutch::testing
