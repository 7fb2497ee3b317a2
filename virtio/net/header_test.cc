// The header before each frame: what it may say (V20, B27), and what the device says in its own.
#include "virtio/net/header.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <functional>
#include <optional>
#include <vector>

namespace hutch::virtio::net {
namespace {

using Segmentation = FrameOffload::Segmentation;

constexpr uint64_t kAll = spec::kNetFeatureChecksum | spec::kNetFeatureGuestChecksum |
                          spec::kNetFeatureMtu | spec::kNetFeatureMac | spec::kNetFeatureGuestTcp4 |
                          spec::kNetFeatureGuestTcp6 | spec::kNetFeatureHostTcp4 |
                          spec::kNetFeatureHostTcp6 | spec::kNetFeatureMergeableBuffers |
                          spec::kNetFeatureStatus;
constexpr uint16_t kMtu = 1500;
constexpr size_t kIp = 14;
constexpr size_t kTcp4 = 34;  // behind an IPv4 header without options
constexpr size_t kTcp6 = 54;

void put(std::vector<std::byte>& frame, size_t where, unsigned value) {
  frame[where] = static_cast<std::byte>(value);
}

// A frame of `size` bytes with TCP over IPv4 or IPv6, as far as the device looks at it.
std::vector<std::byte> tcp_frame(Segmentation kind, size_t size, unsigned tcp_words = 5) {
  std::vector<std::byte> frame(size);
  const bool is_ip4 = kind == Segmentation::kTcp4;
  put(frame, 12, is_ip4 ? 0x08 : 0x86);
  put(frame, 13, is_ip4 ? 0x00 : 0xdd);
  put(frame, kIp, is_ip4 ? 0x45 : 0x60);
  put(frame, is_ip4 ? kIp + 9 : kIp + 6, 6);
  put(frame, (is_ip4 ? kTcp4 : kTcp6) + 12, tcp_words << 4);
  return frame;
}

struct Case {
  spec::NetHeader header{};
  std::vector<std::byte> frame;
  uint64_t features = kAll;

  tl::expected<FrameOffload, Drop> read() const {
    return read_header(header, frame, Agreement::of(features, kMtu));
  }
};

Case large(Segmentation kind, size_t size = 5000) {
  Case result;
  result.frame = tcp_frame(kind, size);
  const bool is_ip4 = kind == Segmentation::kTcp4;
  const size_t tcp = is_ip4 ? kTcp4 : kTcp6;
  result.header = {.flags = spec::kNetNeedsChecksum,
                   .segmentation = is_ip4 ? spec::kNetSegmentationTcp4 : spec::kNetSegmentationTcp6,
                   .header_length = static_cast<uint16_t>(tcp + 20),
                   .segment_size = uint16_t{1460},
                   .checksum_start = static_cast<uint16_t>(tcp),
                   .checksum_offset = uint16_t{16},
                   .buffer_count = uint16_t{0}};
  return result;
}

// Why the frame is dropped after the change; nothing when it is not.
std::optional<Drop> verdict(Case changed, const std::function<void(Case&)>& change) {
  change(changed);
  const tl::expected<FrameOffload, Drop> offload = changed.read();
  if (offload) return std::nullopt;
  return offload.error();
}

TEST_CASE("a header of zeroes asks for nothing") {
  Case plain;
  plain.frame.resize(60);
  const FrameOffload offload = plain.read().value();
  CHECK(!offload.needs_checksum);
  CHECK(!offload.checked);
  CHECK(offload.segmentation == Segmentation::kNone);
  CHECK(offload.checksum_start == 0);
  CHECK(offload.header_size == 0);
}

TEST_CASE("fields that mean nothing are not looked at, and not passed on") {
  Case plain;
  plain.frame.resize(60);
  // DATA_VALID, RSC_INFO and bits that nobody knows, without NEEDS_CHECKSUM.
  plain.header = {.flags = 0xfe,
                  .segmentation = 0,
                  .header_length = uint16_t{0xffff},
                  .segment_size = uint16_t{0xffff},
                  .checksum_start = uint16_t{0xffff},
                  .checksum_offset = uint16_t{0xffff},
                  .buffer_count = uint16_t{0xffff}};
  const FrameOffload offload = plain.read().value();
  CHECK(!offload.needs_checksum);
  CHECK(!offload.checked);
  CHECK(offload.checksum_start == 0);
  CHECK(offload.checksum_offset == 0);
  CHECK(offload.header_size == 0);
  CHECK(offload.segment_size == 0);
}

TEST_CASE("a checksum to be filled in lies inside the frame, behind the Ethernet header") {
  Case plain;
  plain.frame.resize(60);
  plain.header.flags = spec::kNetNeedsChecksum;
  auto with = [&](size_t start, size_t offset) {
    return verdict(plain, [&](Case& c) {
      c.header.checksum_start = static_cast<uint16_t>(start);
      c.header.checksum_offset = static_cast<uint16_t>(offset);
    });
  };
  CHECK(!with(34, 6));
  CHECK(!with(14, 0));
  CHECK(!with(58, 0));
  CHECK(!with(34, 24));
  CHECK(with(34, 25) == Drop::kChecksum);
  CHECK(with(59, 0) == Drop::kChecksum);
  CHECK(with(60, 0) == Drop::kChecksum);
  CHECK(with(13, 6) == Drop::kChecksum);
  CHECK(with(0, 0) == Drop::kChecksum);
  CHECK(with(34, 0xffff) == Drop::kChecksum);
  CHECK(with(0xffff, 34) == Drop::kChecksum);
  CHECK(with(0xffff, 0xffff) == Drop::kChecksum);  // 16 bits would wrap
  CHECK(with(0xfff0, 0x0020) == Drop::kChecksum);

  plain.header.checksum_start = 34;
  plain.header.checksum_offset = 16;
  const FrameOffload offload = plain.read().value();
  CHECK(offload.needs_checksum);
  CHECK(offload.checksum_start == 34);
  CHECK(offload.checksum_offset == 16);
  CHECK(verdict(plain, [](Case& c) { c.features &= ~spec::kNetFeatureChecksum; }) ==
        Drop::kNotNegotiated);
}

TEST_CASE("a large segment is described by its own headers") {
  for (Segmentation kind : {Segmentation::kTcp4, Segmentation::kTcp6}) {
    Case segment = large(kind);
    const size_t tcp = kind == Segmentation::kTcp4 ? kTcp4 : kTcp6;
    const FrameOffload offload = segment.read().value();
    CHECK(offload.segmentation == kind);
    CHECK(offload.needs_checksum);
    CHECK(offload.checksum_start == tcp);
    CHECK(offload.checksum_offset == 16);
    CHECK(offload.header_size == tcp + 20);
    CHECK(offload.segment_size == 1460);
    // What the driver calls the header's length is a hint: Linux gives what lies in one piece.
    segment.header.header_length = 1000;
    CHECK(segment.read()->header_size == tcp + 20);
    segment.header.header_length = 5000;
    CHECK(segment.read()->header_size == tcp + 20);
    // Options of TCP.
    segment.frame = tcp_frame(kind, 5000, 15);
    CHECK(segment.read()->header_size == tcp + 60);
  }
  Case segment = large(Segmentation::kTcp4);
  // Options of IPv4.
  segment.frame = tcp_frame(Segmentation::kTcp4, 5000);
  put(segment.frame, kIp, 0x46);
  put(segment.frame, kTcp4 + 4 + 12, 5 << 4);
  segment.header.checksum_start = kTcp4 + 4;
  segment.header.header_length = kTcp4 + 4 + 20;
  CHECK(segment.read()->header_size == kTcp4 + 4 + 20);
}

TEST_CASE("V20, B27: a segment whose header does not agree with the frame is dropped") {
  for (Segmentation kind : {Segmentation::kTcp4, Segmentation::kTcp6}) {
    const bool is_ip4 = kind == Segmentation::kTcp4;
    const size_t tcp = is_ip4 ? kTcp4 : kTcp6;
    auto lie = [&](const std::function<void(Case&)>& change) {
      return verdict(large(kind), change) == Drop::kSegmentation;
    };
    CHECK(!lie([](Case&) {}));
    // The fields.
    CHECK(lie([](Case& c) { c.header.flags = 0; }));
    CHECK(lie([](Case& c) { c.header.segment_size = 0; }));
    CHECK(lie([](Case& c) { c.header.checksum_start = kIp; }));
    CHECK(lie([&](Case& c) { c.header.checksum_start = static_cast<uint16_t>(tcp - 1); }));
    CHECK(lie([&](Case& c) { c.header.checksum_start = static_cast<uint16_t>(tcp + 4); }));
    CHECK(lie([](Case& c) { c.header.checksum_offset = 6; }));  // where UDP has it
    CHECK(lie([](Case& c) { c.header.checksum_offset = 17; }));
    CHECK(lie([](Case& c) { c.header.header_length = 0; }));
    CHECK(lie([&](Case& c) { c.header.header_length = static_cast<uint16_t>(tcp + 19); }));
    CHECK(lie([](Case& c) { c.header.header_length = 5001; }));
    CHECK(lie([](Case& c) { c.header.header_length = 0xffff; }));
    // The frame.
    CHECK(lie([](Case& c) { put(c.frame, 12, 0x81), put(c.frame, 13, 0); }));  // a VLAN's
    CHECK(lie([](Case& c) { put(c.frame, 13, 0x06); }));                       // ARP or nothing
    CHECK(lie([&](Case& c) { put(c.frame, kIp, is_ip4 ? 0x65 : 0x40); }));     // the other version
    CHECK(lie([](Case& c) { put(c.frame, kIp, 0); }));
    if (is_ip4) {
      CHECK(lie([](Case& c) { put(c.frame, kIp, 0x44); }));
      CHECK(lie([](Case& c) { put(c.frame, kIp, 0x40); }));
      CHECK(lie([](Case& c) { put(c.frame, kIp, 0x46); }));
      CHECK(lie([](Case& c) { put(c.frame, kIp, 0x4f); }));
      CHECK(lie([](Case& c) { put(c.frame, kIp + 9, 17); }));
    } else {
      CHECK(lie([](Case& c) { put(c.frame, kIp + 6, 17); }));
      CHECK(lie([](Case& c) { put(c.frame, kIp + 6, 0); }));  // an extension header
    }
    CHECK(lie([&](Case& c) { put(c.frame, tcp + 12, 4 << 4); }));
    CHECK(lie([&](Case& c) { put(c.frame, tcp + 12, 0); }));
    CHECK(lie([&](Case& c) { put(c.frame, tcp + 12, 6 << 4); }));  // beyond the header's length
    // Its end: nothing behind it is looked at, as the address sanitizer would say.
    for (size_t size = 14; size < tcp + 20; size++) {
      CHECK(verdict(large(kind), [&](Case& c) {
              c.header.header_length = static_cast<uint16_t>(size);
              c.frame.resize(size);
              c.frame.shrink_to_fit();
            }).has_value());
    }
    CHECK(!lie([&](Case& c) { c.frame.resize(tcp + 20); }));
  }
}

TEST_CASE("V20: kinds of segments that were not negotiated, or that nobody knows, are dropped") {
  for (unsigned kind = 0; kind < 256; kind++) {
    const std::optional<Drop> dropped = verdict(large(Segmentation::kTcp4, 1000), [&](Case& c) {
      c.header.segmentation = static_cast<uint8_t>(kind);
    });
    if (kind == spec::kNetSegmentationNone || kind == spec::kNetSegmentationTcp4) {
      CHECK(!dropped);
    } else if (kind == spec::kNetSegmentationTcp6) {
      CHECK(dropped == Drop::kSegmentation);  // the frame has IPv4
    } else {
      CHECK(dropped == Drop::kNotNegotiated);  // UDP, and those with the mark of ECN
    }
  }
  auto without = [](Segmentation kind, uint64_t feature) {
    return verdict(large(kind), [&](Case& c) { c.features &= ~feature; });
  };
  CHECK(!without(Segmentation::kTcp4, spec::kNetFeatureHostTcp6));
  CHECK(!without(Segmentation::kTcp6, spec::kNetFeatureHostTcp4));
  CHECK(without(Segmentation::kTcp4, spec::kNetFeatureHostTcp4) == Drop::kNotNegotiated);
  CHECK(without(Segmentation::kTcp6, spec::kNetFeatureHostTcp6) == Drop::kNotNegotiated);
  CHECK(without(Segmentation::kTcp4, spec::kNetFeatureChecksum) == Drop::kNotNegotiated);
}

TEST_CASE("a feature that needs another one is not negotiated without it") {
  constexpr uint64_t kHost = spec::kNetFeatureHostTcp4 | spec::kNetFeatureHostTcp6;
  constexpr uint64_t kGuest = spec::kNetFeatureGuestTcp4 | spec::kNetFeatureGuestTcp6;
  CHECK(Agreement::of(kAll, kMtu).features == kAll);
  CHECK(Agreement::of(kAll & ~spec::kNetFeatureChecksum, kMtu).features ==
        (kAll & ~spec::kNetFeatureChecksum & ~kHost));
  CHECK(Agreement::of(kAll & ~spec::kNetFeatureGuestChecksum, kMtu).features ==
        (kAll & ~spec::kNetFeatureGuestChecksum & ~kGuest));
  CHECK(Agreement::of(kHost | kGuest, kMtu).features == 0);
}

TEST_CASE(
    "B22: a frame beyond the MTU that is not to be cut is dropped, where the driver knows it") {
  Case plain;
  plain.frame.resize(14 + kMtu);
  CHECK(plain.read());
  plain.frame.resize(14 + kMtu + 1);
  CHECK(plain.read().error() == Drop::kTooLong);
  plain.features &= ~spec::kNetFeatureMtu;
  CHECK(plain.read());
  plain.frame.resize(kMaxFrame);
  CHECK(plain.read());
}

// --- To the guest ------------------------------------------------------------------------------

struct Outgoing {
  FrameOffload offload{.needs_checksum = true,
                       .checksum_start = kTcp4,
                       .checksum_offset = 16,
                       .segmentation = Segmentation::kTcp4,
                       .header_size = kTcp4 + 20,
                       .segment_size = 1460};
  size_t size = 5000;
  uint64_t features = kAll;
  uint16_t mtu = kMtu;

  tl::expected<spec::NetHeader, Drop> make() const {
    return make_header(offload, size, Agreement::of(features, mtu));
  }
  std::optional<Drop> drop() const {
    const tl::expected<spec::NetHeader, Drop> header = make();
    if (header) return std::nullopt;
    return header.error();
  }
};

Outgoing plain_outgoing(size_t size = 60) {
  Outgoing outgoing;
  outgoing.offload = {};
  outgoing.size = size;
  return outgoing;
}

TEST_CASE("the header of a frame to the guest says what the offload says") {
  spec::NetHeader header = Outgoing().make().value();
  CHECK(header.flags == spec::kNetNeedsChecksum);
  CHECK(header.segmentation == spec::kNetSegmentationTcp4);
  CHECK(header.header_length == kTcp4 + 20);
  CHECK(header.segment_size == 1460);
  CHECK(header.checksum_start == kTcp4);
  CHECK(header.checksum_offset == 16);

  Outgoing outgoing;
  outgoing.offload.segmentation = Segmentation::kTcp6;
  CHECK(outgoing.make()->segmentation == spec::kNetSegmentationTcp6);

  header = plain_outgoing().make().value();
  CHECK(header.flags == 0);
  CHECK(header.segmentation == 0);
  CHECK(header.checksum_start == 0);

  outgoing = plain_outgoing();
  outgoing.offload.checked = true;
  CHECK(outgoing.make()->flags == spec::kNetDataValid);
  // Both at once would be a contradiction; that there is work to do is what must not be lost.
  outgoing.offload.needs_checksum = true;
  outgoing.offload.checksum_start = 34;
  CHECK(outgoing.make()->flags == spec::kNetNeedsChecksum);
}

TEST_CASE("what the guest is not able to take is not sent to it") {
  Outgoing outgoing;
  for (uint64_t feature : {spec::kNetFeatureGuestTcp4, spec::kNetFeatureGuestChecksum}) {
    outgoing.features = kAll & ~feature;
    CHECK(outgoing.drop() == Drop::kNotNegotiated);
  }
  outgoing.features = kAll & ~spec::kNetFeatureGuestTcp6;
  CHECK(!outgoing.drop());
  outgoing.offload.segmentation = Segmentation::kTcp6;
  CHECK(outgoing.drop() == Drop::kNotNegotiated);

  outgoing = plain_outgoing();
  outgoing.features = 0;
  CHECK(!outgoing.drop());
  outgoing.offload.checked = true;
  CHECK(outgoing.drop() == Drop::kNotNegotiated);
  outgoing.offload = {.needs_checksum = true, .checksum_start = 34};
  CHECK(outgoing.drop() == Drop::kNotNegotiated);
}

TEST_CASE("frames to the guest are bounded") {
  CHECK(plain_outgoing(13).drop() == Drop::kTooShort);
  CHECK(plain_outgoing(0).drop() == Drop::kTooShort);
  CHECK(!plain_outgoing(14).drop());
  CHECK(!plain_outgoing(14 + kMtu).drop());
  CHECK(plain_outgoing(14 + kMtu + 1).drop() == Drop::kTooLong);
  CHECK(plain_outgoing(SIZE_MAX).drop() == Drop::kTooLong);
  // A driver that was not told of a larger MTU has room for the usual one.
  Outgoing outgoing = plain_outgoing(14 + 9000);
  outgoing.mtu = 9000;
  CHECK(!outgoing.drop());
  outgoing.features &= ~spec::kNetFeatureMtu;
  CHECK(outgoing.drop() == Drop::kTooLong);
  outgoing.size = 14 + 1500;
  CHECK(!outgoing.drop());
  outgoing.mtu = 1000;
  CHECK(outgoing.drop() == Drop::kTooLong);

  Outgoing segment;
  segment.size = kMaxFrame;
  CHECK(!segment.drop());
  segment.size = kMaxFrame + 1;
  CHECK(segment.drop() == Drop::kTooLong);
}

TEST_CASE("B27: offsets to the guest lie inside the frame too") {
  Outgoing outgoing;
  outgoing.offload.checksum_start = 4983;
  CHECK(outgoing.drop() == Drop::kChecksum);
  outgoing = Outgoing();
  outgoing.offload.needs_checksum = false;
  CHECK(outgoing.drop() == Drop::kSegmentation);
  outgoing = Outgoing();
  outgoing.offload.segment_size = 0;
  CHECK(outgoing.drop() == Drop::kSegmentation);
  outgoing = Outgoing();
  outgoing.offload.header_size = 14;
  CHECK(outgoing.drop() == Drop::kSegmentation);
  outgoing = Outgoing();
  outgoing.offload.header_size = 5001;
  CHECK(outgoing.drop() == Drop::kSegmentation);
}

}  // namespace
}  // namespace hutch::virtio::net
