#include "broker/host_addresses.h"

#include <ifaddrs.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>

namespace hutch::broker {
namespace {

std::optional<IpAddress> address_of(const sockaddr* address) {
  if (address == nullptr) return std::nullopt;
  if (address->sa_family == AF_INET) {
    sockaddr_in v4;
    std::memcpy(&v4, address, sizeof v4);
    return IpAddress::v4(ntohl(v4.sin_addr.s_addr));
  }
  if (address->sa_family == AF_INET6) {
    sockaddr_in6 v6;
    std::memcpy(&v6, address, sizeof v6);
    std::array<uint8_t, 16> bytes;
    std::memcpy(bytes.data(), &v6.sin6_addr, bytes.size());
    return IpAddress::v6(bytes);
  }
  return std::nullopt;
}

Fd open_changes() {
  Fd socket(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE));
  sockaddr_nl name{};
  name.nl_family = AF_NETLINK;
  name.nl_groups = RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR;
  if (socket && ::bind(socket.get(), reinterpret_cast<sockaddr*>(&name), sizeof name) < 0)
    socket.reset();
  return socket;
}

}  // namespace

HostAddresses::HostAddresses() : changes_(open_changes()) {}

Result<bool> HostAddresses::contains(const IpAddress& address) {
  // In this order: what changes while they are read is noticed the next time.
  if (have_changed() || !are_read_) TRY(read());
  return std::find(addresses_.begin(), addresses_.end(), address) != addresses_.end();
}

// Whatever comes is a reason to read them again: a change, or (ENOBUFS) that there were more
// changes than the socket holds. What they are the list itself says.
bool HostAddresses::have_changed() {
  if (!changes_) return true;
  bool changed = false;
  for (;;) {
    std::array<std::byte, 4096> ignored;
    const ssize_t count = ::recv(changes_.get(), ignored.data(), ignored.size(), MSG_DONTWAIT);
    if (count < 0 && errno == EAGAIN) return changed;
    changed = true;
    if (count >= 0 || errno == EINTR || errno == ENOBUFS) continue;
    changes_.reset();
    return true;
  }
}

Result<void> HostAddresses::read() {
  are_read_ = false;
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) return fail_errno(errno, "asking for the host's addresses");
  std::unique_ptr<ifaddrs, decltype(&::freeifaddrs)> owner(list, ::freeifaddrs);
  addresses_.clear();
  for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next)
    if (std::optional<IpAddress> found = address_of(entry->ifa_addr)) addresses_.push_back(*found);
  are_read_ = true;
  return {};
}

}  // namespace hutch::broker
