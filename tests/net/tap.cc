#include "tests/net/tap.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/ipv6.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <net/route.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/sys.h"
#include "net/network.h"

namespace hutch::testing {
namespace {

constexpr int kMaxFramesPerBatch = 64;

// Before each frame: struct virtio_net_hdr of linux/virtio_net.h, which C++ cannot include.
struct VnetHeader {
  uint8_t flags;
  uint8_t segmentation;
  uint16_t header_size;
  uint16_t segment_size;
  uint16_t checksum_start;
  uint16_t checksum_offset;
};
static_assert(sizeof(VnetHeader) == 10);
constexpr uint8_t kNeedsChecksum = 1;
constexpr uint8_t kChecked = 2;
constexpr uint8_t kTcp4 = 1;
constexpr uint8_t kTcp6 = 4;

sockaddr_in to_sockaddr(const IpAddress& address) {
  sockaddr_in result{};
  result.sin_family = AF_INET;
  result.sin_addr.s_addr = htonl(address.v4_value());
  return result;
}

Result<void> set(int fd, unsigned long request, void* argument, const char* what) {
  if (::ioctl(fd, request, argument) < 0) return fail_errno(errno, what);
  return {};
}

ifreq request_for(const std::string& interface) {
  ifreq request{};
  interface.copy(request.ifr_name, IFNAMSIZ - 1);
  return request;
}

Result<void> configure(const std::string& interface) {
  Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket) return fail_errno(errno, "opening a socket");
  auto set_address = [&](unsigned long code, const IpAddress& address) -> Result<void> {
    ifreq request = request_for(interface);
    const sockaddr_in value = to_sockaddr(address);
    std::memcpy(&request.ifr_addr, &value, sizeof value);
    return set(socket.get(), code, &request, "setting an address");
  };
  ifreq mac = request_for(interface);
  mac.ifr_hwaddr.sa_family = ARPHRD_ETHER;
  std::memcpy(mac.ifr_hwaddr.sa_data, net::kGuestMac.data(), net::kGuestMac.size());
  TRY(set(socket.get(), SIOCSIFHWADDR, &mac, "setting a MAC address"));
  TRY(set_address(SIOCSIFADDR, net::kGuestAddress));
  TRY(set_address(SIOCSIFNETMASK, net::kNetmask));
  TRY(bring_up(interface));
  rtentry route{};
  const sockaddr_in any{.sin_family = AF_INET};
  const sockaddr_in gateway = to_sockaddr(net::kGatewayAddress);
  std::memcpy(&route.rt_dst, &any, sizeof any);
  std::memcpy(&route.rt_genmask, &any, sizeof any);
  std::memcpy(&route.rt_gateway, &gateway, sizeof gateway);
  route.rt_flags = RTF_UP | RTF_GATEWAY;
  return set(socket.get(), SIOCADDRT, &route, "setting a route");
}

Result<void> write_file(const char* path, const std::string& text) {
  Fd file = TRY(open_file(path, O_WRONLY));
  return write_all(file.get(), std::as_bytes(std::span(text)));
}

// Nobody else is on the link: the address need not be looked for there first.
Result<void> configure6(const std::string& interface) {
  TRY(write_file(fmt::format("/proc/sys/net/ipv6/conf/{}/accept_dad", interface).c_str(), "0"));
  Fd socket(::socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket) return fail_errno(errno, "opening a socket");
  const int index = static_cast<int>(::if_nametoindex(interface.c_str()));
  in6_ifreq address{};
  std::ranges::copy(net::kGuestAddress6.bytes(), address.ifr6_addr.s6_addr);
  address.ifr6_prefixlen = protocol::guest_network::kPrefixLength6;
  address.ifr6_ifindex = index;
  TRY(set(socket.get(), SIOCSIFADDR, &address, "setting an IPv6 address"));
  in6_rtmsg route{};
  std::ranges::copy(net::kGatewayAddress6.bytes(), route.rtmsg_gateway.s6_addr);
  route.rtmsg_flags = RTF_UP | RTF_GATEWAY;
  route.rtmsg_metric = 1;
  route.rtmsg_ifindex = index;
  return set(socket.get(), SIOCADDRT, &route, "setting an IPv6 route");
}

}  // namespace

Result<void> bring_up(const std::string& interface) {
  Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket) return fail_errno(errno, "opening a socket");
  ifreq request = request_for(interface);
  TRY(set(socket.get(), SIOCGIFFLAGS, &request, "reading an interface's flags"));
  request.ifr_flags |= IFF_UP;
  return set(socket.get(), SIOCSIFFLAGS, &request, "bringing an interface up");
}

Result<void> enter_new_network() {
  if (::geteuid() == 0) {
    if (::unshare(CLONE_NEWNET) < 0) return fail_errno(errno, "making a network namespace");
  } else {
    const uid_t user = ::geteuid();
    const gid_t group = ::getegid();
    if (::unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0)
      return fail_errno(errno, "making a user namespace");
    TRY(write_file("/proc/self/setgroups", "deny"));
    TRY(write_file("/proc/self/uid_map", fmt::format("0 {} 1", user)));
    TRY(write_file("/proc/self/gid_map", fmt::format("0 {} 1", group)));
  }
  return bring_up("lo");
}

Tap::Tap(Fd fd) : fd_(std::move(fd)), buffer_(sizeof(VnetHeader) + kMaxFrame) {}

Result<std::unique_ptr<Tap>> Tap::create(const std::string& name, bool ipv6) {
  Fd fd = TRY(open_file("/dev/net/tun", O_RDWR | O_NONBLOCK));
  ifreq request = request_for(name);
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
  TRY(set(fd.get(), TUNSETIFF, &request, "making a tap interface"));
  const unsigned long offloads = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
  if (::ioctl(fd.get(), TUNSETOFFLOAD, offloads) < 0)
    return fail_errno(errno, "setting a tap's offloads");
  TRY(configure(name));
  if (ipv6) TRY(configure6(name));
  return std::unique_ptr<Tap>(new Tap(std::move(fd)));
}

Result<void> Tap::attach(Loop& loop, FrameReceiver& receiver) {
  receiver_ = &receiver;
  watch_ = TRY(loop.watch(fd_.get(), EPOLLIN, [this](uint32_t) { on_readable(); }));
  return {};
}

void Tap::on_readable() {
  for (int i = 0; i < kMaxFramesPerBatch; i++) {
    reads_++;
    const ssize_t count = ::read(fd_.get(), buffer_.data(), buffer_.size());
    VnetHeader header;
    if (count < static_cast<ssize_t>(sizeof header)) break;
    std::memcpy(&header, buffer_.data(), sizeof header);
    FrameOffload offload;
    offload.needs_checksum = (header.flags & kNeedsChecksum) != 0;
    offload.checked = (header.flags & kChecked) != 0;
    offload.checksum_start = header.checksum_start;
    offload.checksum_offset = header.checksum_offset;
    if (header.segmentation == kTcp4 || header.segmentation == kTcp6) {
      offload.segmentation = header.segmentation == kTcp4 ? FrameOffload::Segmentation::kTcp4
                                                          : FrameOffload::Segmentation::kTcp6;
      offload.header_size = header.header_size;
      offload.segment_size = header.segment_size;
    }
    receiver_->on_frame(std::span<const std::byte>(buffer_).subspan(
                            sizeof header, static_cast<size_t>(count) - sizeof header),
                        offload);
  }
  receiver_->on_batch_end();
}

bool Tap::send(std::span<const std::span<const std::byte>> pieces, const FrameOffload& offload) {
  VnetHeader header{};
  if (offload.needs_checksum) {
    header.flags = kNeedsChecksum;
    header.checksum_start = offload.checksum_start;
    header.checksum_offset = offload.checksum_offset;
  }
  if (offload.segmentation != FrameOffload::Segmentation::kNone) {
    header.segmentation = offload.segmentation == FrameOffload::Segmentation::kTcp4 ? kTcp4 : kTcp6;
    header.header_size = offload.header_size;
    header.segment_size = offload.segment_size;
  }
  std::array<iovec, 8> parts{};
  parts[0] = {&header, sizeof header};
  size_t count = 1;
  for (auto piece : pieces) parts[count++] = {const_cast<std::byte*>(piece.data()), piece.size()};
  writes_++;
  // An interface that takes no frame drops it, as a cable would.
  const ssize_t written = ::writev(fd_.get(), parts.data(), static_cast<int>(count));
  if (written < 0) drops_++;
  return true;
}

}  // namespace hutch::testing
