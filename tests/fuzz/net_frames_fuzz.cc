// Fuzzes the network's far side with frames: raw ones, and ones that are right but where the input
// says otherwise, among what openers, sockets and time do meanwhile.
//
// Checked: nothing is asked for that neither has a name nor is listed; every frame for the guest is
// whole, from the gateway to the guest, with right checksums; flows, memory and descriptors are
// bounded, and gone at the end; and no byte reaches a far side that the guest did not send on that
// connection, in a frame of its own address.
#include "base/log.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/net/backend_bench.h"

namespace hutch::fuzz {
namespace {

using namespace net;
using testing::BackendBench;
using testing::Bytes;
using testing::FakeOpener;
using testing::FrameMaker;
using testing::read_at;

constexpr IpAddress kNamed = IpAddress::v4(198, 18, 0, 7);
constexpr size_t kFlows = 4;   // honest ports of the guest: 1000 and on
constexpr char kHonest = 'h';  // all that honest segments carry
constexpr char kForged = 'f';

struct Machine {
  BackendBench bench{{.max_flows = 8,
                      .max_opening = 4,
                      .syn_burst = 1000,
                      .syns_per_second = 1000,
                      .memory = 100'000},
                     true};
  uint32_t next[kFlows] = {};
  uint32_t expected[kFlows] = {};

  Machine() { bench.names.names[kNamed] = "allowed.test"; }

  static void check_version6(const Bytes& frame, const FrameOffload& offload) {
    const auto ip = read_at<wire::Ipv6>(frame, 14);
    FUZZ_CHECK(ip.payload_length == frame.size() - 54);
    const IpAddress source = IpAddress::v6(ip.source), to = IpAddress::v6(ip.destination);
    FUZZ_CHECK(to == kGuestAddress6 ||
               (ip.next_header == wire::kProtocolIcmp6 && ip.destination[0] == 0xfe));
    if (offload.needs_checksum) return;
    const auto transport = std::span(frame).subspan(54);
    const uint16_t pseudo = pseudo_header_sum(source, to, ip.next_header, transport.size());
    FUZZ_CHECK(Checksum().add_object(pseudo).add(transport).value() == 0);
  }

  // What the guest was sent is checked, and read as an honest guest would.
  void take() {
    for (const auto& frame : bench.device.frames) {
      const auto ethernet = read_at<wire::Ethernet>(frame.bytes, 0);
      FUZZ_CHECK(ethernet.source == kGatewayMac && ethernet.destination == kGuestMac);
      if (ethernet.type == wire::kTypeArp) continue;
      if (ethernet.type == wire::kTypeIpv6) {
        check_version6(frame.bytes, frame.offload);
        continue;
      }
      FUZZ_CHECK(ethernet.type == wire::kTypeIpv4);
      const auto ip = read_at<wire::Ipv4>(frame.bytes, 14);
      FUZZ_CHECK(ip.total_length == frame.bytes.size() - 14);
      FUZZ_CHECK(Checksum().add_object(ip).value() == 0);
      FUZZ_CHECK(ip.destination == kGuestAddress.v4_value() || ip.destination == 0xffffffff);
      FUZZ_CHECK(frame.bytes.size() <= 1514 ||
                 frame.offload.segmentation == FrameOffload::Segmentation::kTcp4);
      const auto transport = std::span(frame.bytes).subspan(34);
      if (!frame.offload.needs_checksum && ip.protocol != wire::kProtocolIcmp) {
        const uint16_t pseudo = pseudo_header_sum(
            IpAddress::v4(ip.source), IpAddress::v4(ip.destination), ip.protocol, transport.size());
        FUZZ_CHECK(Checksum().add_object(pseudo).add(transport).value() == 0);
      }
      if (ip.protocol != wire::kProtocolTcp) continue;
      const auto tcp = read_at<wire::Tcp>(frame.bytes, 34);
      const size_t flow = tcp.destination_port - 1000u;
      if (flow >= kFlows) continue;
      const size_t payload = transport.size() - static_cast<size_t>(tcp.data_offset >> 4) * 4;
      if ((tcp.flags & tcp::kSyn) != 0) expected[flow] = tcp.sequence + 1;
      if (tcp.sequence == expected[flow])
        expected[flow] += static_cast<uint32_t>(payload) + ((tcp.flags & tcp::kFin) != 0 ? 1 : 0);
      if ((tcp.flags & tcp::kAck) != 0) next[flow] = tcp.acknowledgement;
    }
    bench.device.frames.clear();
    FUZZ_CHECK(bench.backend->tcp().flow_count() <= 8);
    FUZZ_CHECK(bench.backend->tcp().opening_count() <= 4);
    FUZZ_CHECK(bench.backend->tcp().memory() <= 100'000);
  }

  // What was asked for, and what has come.
  void check_far_sides() {
    for (auto& asked : bench.opener.asked) {
      FUZZ_CHECK(asked->target.port != 0);
      FUZZ_CHECK(asked->target.name == "allowed.test" ||
                 (asked->target.address == bench.literals.allowed &&
                  asked->target.port == bench.literals.allowed_port));
      FUZZ_CHECK(asked->seen.find(kForged) == std::string::npos);
      if (asked->far) FUZZ_CHECK(testing::far_reads(asked->far).find(kForged) == std::string::npos);
    }
  }
};

void segment(Machine& machine, FuzzInput& input) {
  static constexpr uint8_t kFlags[] = {tcp::kAck, tcp::kSyn, tcp::kAck | tcp::kPsh,
                                       tcp::kAck | tcp::kFin, tcp::kRst};
  const uint32_t flow = input.below(kFlows);
  FrameMaker maker;
  maker.guest_port = static_cast<uint16_t>(1000 + flow);
  if ((flow & 1) != 0) maker.destination = kNamed;
  bool is_honest = true;
  TcpSegment segment{.sequence = machine.next[flow],
                     .acknowledgement = machine.expected[flow],
                     .flags = input.pick(kFlags),
                     .window = input.rarely() ? input.take<uint16_t>() : uint16_t{60'000}};
  if (segment.flags == tcp::kSyn) segment.mss = input.take<uint16_t>();
  if (segment.flags == tcp::kSyn && input.flip()) segment.window_scale = input.byte();
  if (input.rarely()) {
    switch (input.below(8)) {
      case 0:
        maker.source_mac[input.below(6)] ^= 0x40;
        is_honest = false;
        break;
      case 1:
        maker.source = IpAddress::v4(input.take<uint32_t>() | 0x80000000);
        is_honest = false;
        break;
      case 2:
        maker.destination = IpAddress::v4(input.take<uint32_t>() | 1);
        is_honest =
            maker.destination == kNamed || maker.destination == machine.bench.literals.allowed;
        break;
      case 3:
        maker.change_ip = [value = input.take<uint16_t>() | 1](wire::Ipv4& ip) {
          ip.fragment = static_cast<uint16_t>(value);
        };
        is_honest = false;
        break;
      case 4:
        maker.bad_checksum = true;
        is_honest = false;
        break;
      case 5:
        segment.sequence += 200'000 + input.below(1'000'000);
        is_honest = false;
        break;
      case 6:
        segment.sequence -= input.below(4000);
        break;
      default:
        maker.options = Bytes(input.below(10) * 4);
        for (std::byte& byte : maker.options) byte = static_cast<std::byte>(input.byte());
    }
  }
  // A flow only knows its window: what lies further ahead than any is never taken.
  const std::string payload((segment.flags & tcp::kAck) != 0 ? input.below(1400) : 0,
                            is_honest ? kHonest : kForged);
  FrameOffload offload;
  if (input.rarely()) {
    offload = {.needs_checksum = input.flip(),
               .checksum_start = input.flip() ? uint16_t{34} : input.take<uint16_t>(),
               .checksum_offset = input.flip() ? uint16_t{16} : input.take<uint16_t>(),
               .segmentation = static_cast<FrameOffload::Segmentation>(input.below(3)),
               .header_size = input.take<uint16_t>(),
               .segment_size = input.take<uint16_t>()};
    if (maker.bad_checksum) offload.needs_checksum = false;
  }
  machine.bench.backend->on_frame(maker.tcp(segment, payload), offload);
}

void other_packet(Machine& machine, FuzzInput& input) {
  FrameMaker maker;
  std::string payload(input.below(400), 'x');
  for (char& letter : payload) letter = static_cast<char>(input.byte());
  // Of the length, not of a byte more: the corpus keeps its meaning.
  const bool is_version6 = payload.size() % 8 == 5;
  if (is_version6) maker = FrameMaker::version6();
  if (input.flip()) maker.destination = is_version6 ? kGatewayAddress6 : kGatewayAddress;
  Bytes frame;
  switch (input.below(5)) {
    case 0:
      frame = maker.icmp(input.flip() ? uint8_t{8} : input.byte(), 0, payload);
      break;
    case 1:
      maker.far_port = 53;
      frame = maker.udp(payload);
      break;
    case 2: {
      // A DHCP message whose head is right.
      maker.far_port = 67;
      maker.guest_port = 68;
      maker.destination = IpAddress::v4(0xffffffff);
      std::string head(240, '\0');
      head[0] = head[1] = 1;
      head[2] = 6;
      std::memcpy(head.data() + 28, kGuestMac.data(), 6);
      std::memcpy(head.data() + 236, "\x63\x82\x53\x63", 4);
      frame = maker.udp(head + payload);
      break;
    }
    case 3:
      frame = maker.arp(input.below(4) == 0 ? input.take<uint16_t>() : uint16_t{1},
                        input.flip() ? kGatewayAddress : IpAddress::v4(input.take<uint32_t>()));
      break;
    default: {
      maker.far_port = input.flip() ? uint16_t{53} : input.take<uint16_t>();
      frame = maker.tcp({.sequence = input.take<uint32_t>(),
                         .acknowledgement = input.take<uint32_t>(),
                         .flags = input.byte(),
                         .window = input.take<uint16_t>()},
                        payload);
    }
  }
  if (input.rarely() && !frame.empty())
    frame[input.below(static_cast<uint32_t>(frame.size()))] ^= std::byte{1};
  machine.bench.backend->on_frame(frame, {});
}

void raw(Machine& machine, FuzzInput& input) {
  Bytes frame(14 + input.below(200));
  for (std::byte& byte : frame) byte = static_cast<std::byte>(input.byte());
  if (input.flip()) {
    std::memcpy(frame.data(), kGatewayMac.data(), 6);
    std::memcpy(frame.data() + 6, kGuestMac.data(), 6);
  }
  machine.bench.backend->on_frame(frame, {});
}

void far_acts(Machine& machine, FuzzInput& input) {
  if (machine.bench.opener.asked.empty()) return;
  auto& all = machine.bench.opener.asked;
  FakeOpener::Asked& asked = *all[all.size() - 1 - input.below(4) % all.size()];
  switch (input.below(8)) {
    case 0:
    case 1:
      if (asked.handle != nullptr && !asked.far) asked.join(input.rarely() ? 1 : 0);
      break;
    case 2:
      if (asked.handle != nullptr) asked.callbacks.connected();
      break;
    case 3:
      if (asked.handle != nullptr && input.rarely()) asked.callbacks.refused();
      break;
    case 4:
    case 5: {
      const std::string text(input.below(20'000), 'd');
      if (asked.far)
        (void)::send(asked.far.get(), text.data(), text.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
      break;
    }
    case 6:
      machine.check_far_sides();
      if (asked.far) (void)::shutdown(asked.far.get(), static_cast<int>(input.below(3)));
      break;
    default:
      machine.check_far_sides();
      if (input.rarely()) asked.far.reset();
  }
}

}  // namespace
}  // namespace hutch::fuzz

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  hutch::set_log_level(hutch::LogLevel::kError);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace hutch;
  using namespace hutch::fuzz;
  FuzzInput input(data, size);
  Machine machine;
  machine.bench.device.able = {.checksum = input.flip(), .tcp4 = input.flip()};
  for (int step = 0; step < 60 && !input.is_empty(); step++) {
    switch (input.below(16)) {
      default:
        segment(machine, input);
        break;
      case 8:
      case 9:
        far_acts(machine, input);
        break;
      case 10:
        other_packet(machine, input);
        break;
      case 11:
        raw(machine, input);
        break;
      case 12:
        machine.bench.run();
        break;
      case 13:
        machine.bench.device.room = input.flip() ? SIZE_MAX : input.below(4);
        if (machine.bench.device.room > 0) machine.bench.backend->on_room();
        break;
      case 14:
        machine.bench.now += input.below(60'000) * uint64_t{1'000'000};
        break;
      case 15:
        if (input.rarely()) machine.bench.backend->reset_all();
        if (input.rarely())
          machine.bench.backend->close_where(
              [](const net::FlowTarget& target) { return !target.name.empty(); });
        break;
    }
    if (input.flip()) {
      machine.bench.backend->on_batch_end();
      machine.take();
    }
  }
  machine.bench.backend->on_batch_end();
  machine.take();
  machine.check_far_sides();
  machine.bench.device.room = SIZE_MAX;
  machine.bench.backend->on_room();
  machine.bench.backend->reset_all();
  FUZZ_CHECK(machine.bench.backend->tcp().flow_count() == 0);
  FUZZ_CHECK(machine.bench.backend->tcp().memory() == 0);
  for (auto& asked : machine.bench.opener.asked) FUZZ_CHECK(asked->handle == nullptr);
  FUZZ_CHECK(machine.bench.names.held[kNamed] == 0);
  return 0;
}
