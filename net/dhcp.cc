#include "net/dhcp.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "net/big_endian.h"
#include "net/network.h"

namespace hutch::net {
namespace {

struct Header {
  uint8_t operation;
  uint8_t hardware_type;
  uint8_t hardware_size;
  uint8_t hops;
  be32 transaction;
  be16 seconds;
  be16 flags;
  be32 client_address;  // that the guest has
  be32 your_address;    // that it gets
  be32 server_address;
  be32 relay_address;
  std::array<uint8_t, 16> hardware_address;
  std::array<uint8_t, 192> names;  // of server and file: unused
  be32 cookie;
};
static_assert(sizeof(Header) == 240);

constexpr uint8_t kBootRequest = 1;
constexpr uint8_t kBootReply = 2;
constexpr uint32_t kCookie = 0x63825363;
constexpr uint16_t kBroadcastFlag = 0x8000;
constexpr IpAddress kBroadcast = IpAddress::v4(0xffffffff);
// Shorter answers are dropped by some clients (RFC 1542 section 2.1).
constexpr size_t kLeastMessage = 300;

enum Option : uint8_t {
  kPad = 0,
  kNetmaskOption = 1,
  kRouter = 3,
  kDnsServer = 6,
  kMtuOption = 26,
  kRequestedAddress = 50,
  kLease = 51,
  kMessageType = 53,
  kServer = 54,
  kEnd = 255,
};

enum MessageType : uint8_t {
  kDiscover = 1,
  kOffer = 2,
  kRequest = 3,
  kAcknowledge = 5,
  kRefuse = 6,
  kInform = 8,
};

// The options that count; every one is guest-controlled.
struct Options {
  uint8_t type = 0;
  std::optional<IpAddress> requested;
  std::optional<IpAddress> server;
};

std::optional<Options> parse_options(std::span<const std::byte> bytes) {
  Options options;
  auto at = [&bytes](size_t index) { return std::to_integer<uint8_t>(bytes[index]); };
  while (!bytes.empty() && at(0) != kEnd) {
    if (at(0) == kPad) {
      bytes = bytes.subspan(1);
      continue;
    }
    if (bytes.size() < 2 || bytes.size() - 2 < at(1)) return std::nullopt;
    const uint8_t code = at(0);
    const uint8_t size = at(1);
    auto address = [&] { return IpAddress::v4(at(2), at(3), at(4), at(5)); };
    if (code == kMessageType && size == 1) options.type = at(2);
    if (code == kRequestedAddress && size == 4) options.requested = address();
    if (code == kServer && size == 4) options.server = address();
    bytes = bytes.subspan(size_t{2} + size);
  }
  return options;
}

void put(std::vector<std::byte>& message, uint8_t code, std::span<const uint8_t> value) {
  message.push_back(std::byte{code});
  message.push_back(static_cast<std::byte>(value.size()));
  for (uint8_t byte : value) message.push_back(std::byte{byte});
}

void put(std::vector<std::byte>& message, uint8_t code, uint32_t value) {
  put(message, code, IpAddress::v4(value).bytes());
}

uint8_t answer_type(const Options& options, const Header& header) {
  switch (options.type) {
    case kDiscover:
      return kOffer;
    case kInform:
      return kAcknowledge;
    case kRequest: {
      if (options.server && *options.server != kGatewayAddress) return 0;  // not meant for us
      const IpAddress wanted = options.requested.value_or(IpAddress::v4(header.client_address));
      return wanted == kGuestAddress ? kAcknowledge : kRefuse;
    }
    default:  // DECLINE and RELEASE change nothing
      return 0;
  }
}

}  // namespace

std::optional<DhcpAnswer> answer_dhcp(std::span<const std::byte> message) {
  Header header;
  if (message.size() < sizeof header) return std::nullopt;
  std::memcpy(&header, message.data(), sizeof header);
  const bool is_guest =
      std::equal(kGuestMac.begin(), kGuestMac.end(), header.hardware_address.begin());
  if (header.operation != kBootRequest || header.hardware_type != 1 || header.hardware_size != 6 ||
      header.cookie != kCookie || !is_guest)
    return std::nullopt;
  const std::optional<Options> options = parse_options(message.subspan(sizeof header));
  if (!options) return std::nullopt;
  const uint8_t type = answer_type(*options, header);
  if (type == 0) return std::nullopt;

  const bool gives_address = type != kRefuse && options->type != kInform;
  const bool has_address = options->type == kInform || header.client_address != 0;
  const bool to_all = type == kRefuse || (header.flags & kBroadcastFlag) != 0;
  Header answer{};
  answer.operation = kBootReply;
  answer.hardware_type = 1;
  answer.hardware_size = 6;
  answer.transaction = header.transaction;
  answer.flags = header.flags;
  if (type != kRefuse) answer.client_address = header.client_address;
  if (gives_address) answer.your_address = kGuestAddress.v4_value();
  if (type != kRefuse) answer.server_address = kGatewayAddress.v4_value();
  std::copy(kGuestMac.begin(), kGuestMac.end(), answer.hardware_address.begin());
  answer.cookie = kCookie;

  DhcpAnswer result;
  result.destination = to_all && !has_address ? kBroadcast : kGuestAddress;
  const auto bytes = std::as_bytes(std::span(&answer, 1));
  result.message.assign(bytes.begin(), bytes.end());
  put(result.message, kMessageType, std::span(&type, 1));
  put(result.message, kServer, kGatewayAddress.v4_value());
  if (gives_address) put(result.message, kLease, static_cast<uint32_t>(kLeaseTime.count()));
  if (type != kRefuse) {
    put(result.message, kNetmaskOption, kNetmask.v4_value());
    put(result.message, kRouter, kGatewayAddress.v4_value());
    put(result.message, kDnsServer, kDnsAddress.v4_value());
    constexpr std::array<uint8_t, 2> mtu = {kMtu >> 8, kMtu & 0xff};
    put(result.message, kMtuOption, mtu);
  }
  result.message.push_back(std::byte{kEnd});
  result.message.resize(std::max(result.message.size(), kLeastMessage));
  return result;
}

}  // namespace hutch::net
