#include "virtio/net/header.h"

#include <algorithm>
#include <optional>

namespace hutch::virtio::net {
namespace {

using Segmentation = FrameOffload::Segmentation;

constexpr size_t kChecksumSize = 2;
constexpr uint16_t kUsualMtu = 1500;  // of a driver that was told none

constexpr size_t kEtherType = 12;
constexpr unsigned kEtherTypeIp4 = 0x0800;
constexpr unsigned kEtherTypeIp6 = 0x86dd;
constexpr size_t kIp4MinSize = 20;
constexpr size_t kIp4Protocol = 9;
constexpr size_t kIp6Size = 40;
constexpr size_t kIp6NextHeader = 6;
constexpr unsigned kProtocolTcp = 6;
constexpr size_t kTcpMinSize = 20;
constexpr size_t kTcpDataOffset = 12;
constexpr uint16_t kTcpChecksum = 16;

// Where a frame, by its own headers, has its TCP header and the bytes behind that.
struct TcpPlace {
  size_t header = 0;
  size_t payload = 0;
};

// Nothing when the frame is not wholly what `kind` says. TCP comes directly behind IP: a tag of a
// VLAN, and an extension header of IPv6, is nothing that a segment to be cut may have.
std::optional<TcpPlace> find_tcp(std::span<const std::byte> frame, Segmentation kind) {
  auto at = [&](size_t index) { return std::to_integer<unsigned>(frame[index]); };
  constexpr size_t kIp = kEthernetHeaderSize;
  const bool is_ip4 = kind == Segmentation::kTcp4;
  const unsigned ether_type = at(kEtherType) << 8 | at(kEtherType + 1);
  if (ether_type != (is_ip4 ? kEtherTypeIp4 : kEtherTypeIp6)) return std::nullopt;
  if (frame.size() < kIp + (is_ip4 ? kIp4MinSize : kIp6Size)) return std::nullopt;
  if (at(kIp) >> 4 != (is_ip4 ? 4 : 6)) return std::nullopt;
  const size_t ip_size = is_ip4 ? (at(kIp) & 0xf) * 4 : kIp6Size;
  if (is_ip4 && ip_size < kIp4MinSize) return std::nullopt;
  if (at(kIp + (is_ip4 ? kIp4Protocol : kIp6NextHeader)) != kProtocolTcp) return std::nullopt;
  const size_t tcp = kIp + ip_size;
  if (frame.size() < tcp + kTcpMinSize) return std::nullopt;
  const size_t tcp_size = (at(tcp + kTcpDataOffset) >> 4) * 4;
  if (tcp_size < kTcpMinSize || frame.size() < tcp + tcp_size) return std::nullopt;
  return TcpPlace{tcp, tcp + tcp_size};
}

bool is_checksum_inside(size_t start, size_t offset, size_t size) {
  return start >= kEthernetHeaderSize && start + offset + kChecksumSize <= size;
}

}  // namespace

Agreement Agreement::of(uint64_t negotiated, uint16_t mtu) {
  if ((negotiated & spec::kNetFeatureChecksum) == 0)
    negotiated &= ~(spec::kNetFeatureHostTcp4 | spec::kNetFeatureHostTcp6);
  if ((negotiated & spec::kNetFeatureGuestChecksum) == 0)
    negotiated &= ~(spec::kNetFeatureGuestTcp4 | spec::kNetFeatureGuestTcp6);
  return {negotiated, mtu};
}

tl::expected<FrameOffload, Drop> read_header(const spec::NetHeader& header,
                                             std::span<const std::byte> frame,
                                             const Agreement& agreement) {
  FrameOffload offload;
  // Flags that mean nothing from a driver are to be ignored (section 5.1.6.2.2).
  if ((header.flags & spec::kNetNeedsChecksum) != 0) {
    if (!agreement.has(spec::kNetFeatureChecksum)) return tl::unexpected(Drop::kNotNegotiated);
    offload.needs_checksum = true;
    offload.checksum_start = header.checksum_start;
    offload.checksum_offset = header.checksum_offset;
    if (!is_checksum_inside(offload.checksum_start, offload.checksum_offset, frame.size()))
      return tl::unexpected(Drop::kChecksum);
  }

  if (header.segmentation == spec::kNetSegmentationNone) {
    if (agreement.has(spec::kNetFeatureMtu) && frame.size() > kEthernetHeaderSize + agreement.mtu)
      return tl::unexpected(Drop::kTooLong);
    return offload;
  }
  if (header.segmentation == spec::kNetSegmentationTcp4 &&
      agreement.has(spec::kNetFeatureHostTcp4)) {
    offload.segmentation = Segmentation::kTcp4;
  } else if (header.segmentation == spec::kNetSegmentationTcp6 &&
             agreement.has(spec::kNetFeatureHostTcp6)) {
    offload.segmentation = Segmentation::kTcp6;
  } else {
    return tl::unexpected(Drop::kNotNegotiated);
  }
  // The frame is what counts: what the header says beside it must agree with it, or whoever reads
  // the frame would look at another place than whoever cuts it. header_length is a hint, not less
  // than the headers are.
  const std::optional<TcpPlace> tcp = find_tcp(frame, offload.segmentation);
  if (!tcp || !offload.needs_checksum || offload.checksum_start != tcp->header ||
      offload.checksum_offset != kTcpChecksum || header.segment_size == 0 ||
      header.header_length < tcp->payload || header.header_length > frame.size())
    return tl::unexpected(Drop::kSegmentation);
  offload.header_size = static_cast<uint16_t>(tcp->payload);  // at most 14 + 60 + 60
  offload.segment_size = header.segment_size;
  return offload;
}

tl::expected<spec::NetHeader, Drop> make_header(const FrameOffload& offload, size_t size,
                                                const Agreement& agreement) {
  if (size < kEthernetHeaderSize) return tl::unexpected(Drop::kTooShort);
  if (size > kMaxFrame) return tl::unexpected(Drop::kTooLong);
  spec::NetHeader header{};
  if ((offload.needs_checksum || offload.checked) && !agreement.has(spec::kNetFeatureGuestChecksum))
    return tl::unexpected(Drop::kNotNegotiated);
  if (offload.needs_checksum) {
    if (!is_checksum_inside(offload.checksum_start, offload.checksum_offset, size))
      return tl::unexpected(Drop::kChecksum);
    header.flags = spec::kNetNeedsChecksum;
    header.checksum_start = offload.checksum_start;
    header.checksum_offset = offload.checksum_offset;
  } else if (offload.checked) {
    header.flags = spec::kNetDataValid;
  }

  if (offload.segmentation == Segmentation::kNone) {
    const uint16_t mtu =
        agreement.has(spec::kNetFeatureMtu) ? agreement.mtu : std::min(agreement.mtu, kUsualMtu);
    if (size > kEthernetHeaderSize + mtu) return tl::unexpected(Drop::kTooLong);
    return header;
  }
  const bool is_ip4 = offload.segmentation == Segmentation::kTcp4;
  if (!agreement.has(is_ip4 ? spec::kNetFeatureGuestTcp4 : spec::kNetFeatureGuestTcp6))
    return tl::unexpected(Drop::kNotNegotiated);
  if (!offload.needs_checksum || offload.segment_size == 0 ||
      offload.header_size <= kEthernetHeaderSize || offload.header_size > size)
    return tl::unexpected(Drop::kSegmentation);
  header.segmentation = is_ip4 ? spec::kNetSegmentationTcp4 : spec::kNetSegmentationTcp6;
  header.header_length = offload.header_size;
  header.segment_size = offload.segment_size;
  return header;
}

}  // namespace hutch::virtio::net
