#include "guest-agent/system.h"

#include <fcntl.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <net/route.h>
#include <netinet/in.h>
// Behind the library's own.
#include <linux/ipv6.h>
#include <linux/random.h>
#include <linux/rtc.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "base/log.h"
#include "base/sys.h"
#include "guest-agent/identity.h"
#include "guest-agent/last_words.h"
#include "protocol/guest_network.h"

namespace hutch::agent {
namespace {

constexpr const char* kDevice = "eth0";

Result<void> write_setting(const char* path, std::string_view value) {
  Fd file = TRY(open_file(path, O_WRONLY));
  return write_all(file.get(), std::as_bytes(std::span(value)));
}

struct Setting {
  const char* path;
  std::string_view value;
};
constexpr Setting kSettings[] = {
    // ping without privileges, and servers on ports below 1024 as a user.
    {"/proc/sys/net/ipv4/ping_group_range", "0 2147483647"},
    {"/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"},
    // Servers that watch a source tree for changes.
    {"/proc/sys/fs/inotify/max_user_watches", "524288"},
    {"/proc/sys/fs/inotify/max_user_instances", "1024"},
    // What was used within the last second stays in memory, or a process is killed for it. Without
    // this a guest that is nearly out of memory drops and rereads its programs' pages for minutes.
    {"/sys/kernel/mm/lru_gen/min_ttl_ms", "1000"},
};

Result<Fd> network_socket() {
  Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket) return fail_errno(errno, "opening a socket to set the network up");
  return socket;
}

ifreq request_for(const char* device) {
  ifreq request{};
  std::strcpy(request.ifr_name, device);
  return request;
}

sockaddr address_of(uint32_t value) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(value);
  sockaddr plain{};
  std::memcpy(&plain, &address, sizeof plain);
  return plain;
}

Result<void> set_up(const Fd& socket, const char* device, bool up) {
  ifreq request = request_for(device);
  if (::ioctl(socket.get(), SIOCGIFFLAGS, &request) < 0)
    return fail_errno(errno, fmt::format("reading the state of the device {}", device));
  request.ifr_flags =
      static_cast<short>(up ? request.ifr_flags | IFF_UP : request.ifr_flags & ~IFF_UP);
  if (::ioctl(socket.get(), SIOCSIFFLAGS, &request) < 0)
    return fail_errno(errno, fmt::format("bringing the device {} {}", device, up ? "up" : "down"));
  return {};
}

// Nobody else is on the link: the address need not be looked for there first.
Result<void> add_ipv6(const char* device) {
  namespace numbers = protocol::guest_network;
  TRY(write_setting(fmt::format("/proc/sys/net/ipv6/conf/{}/accept_dad", device).c_str(), "0"));
  Fd socket(::socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket) return fail_errno(errno, "opening a socket");
  int index = static_cast<int>(::if_nametoindex(device));
  in6_ifreq address{};
  std::memcpy(&address.ifr6_addr, numbers::kGuest6.data(), numbers::kGuest6.size());
  address.ifr6_prefixlen = numbers::kPrefixLength6;
  address.ifr6_ifindex = index;
  if (::ioctl(socket.get(), SIOCSIFADDR, &address) < 0)
    return fail_errno(errno, "setting the IPv6 address of the network device");
  in6_rtmsg route{};
  std::memcpy(&route.rtmsg_gateway, numbers::kGateway6.data(), numbers::kGateway6.size());
  route.rtmsg_flags = RTF_UP | RTF_GATEWAY;
  route.rtmsg_metric = 1;
  route.rtmsg_ifindex = index;
  if (::ioctl(socket.get(), SIOCADDRT, &route) < 0)
    return fail_errno(errno, "setting the default route of IPv6");
  return {};
}

Result<void> set_clock(uint64_t realtime_ns) {
  timespec now{};
  now.tv_sec = static_cast<time_t>(realtime_ns / 1'000'000'000);
  now.tv_nsec = static_cast<long>(realtime_ns % 1'000'000'000);
  if (::clock_settime(CLOCK_REALTIME, &now) < 0) return fail_errno(errno, "setting the clock");
  return {};
}

Result<void> add_entropy(std::string_view bytes) {
  Fd random = TRY(open_file("/dev/urandom", O_WRONLY));
  // struct rand_pool_info: two ints, then the bytes.
  std::vector<char> buffer(sizeof(rand_pool_info) + bytes.size());
  rand_pool_info info{};
  info.entropy_count = static_cast<int>(bytes.size() * 8);
  info.buf_size = static_cast<int>(bytes.size());
  std::memcpy(buffer.data(), &info, sizeof info);
  std::memcpy(buffer.data() + sizeof info, bytes.data(), bytes.size());
  if (::ioctl(random.get(), RNDADDENTROPY, buffer.data()) < 0)
    return fail_errno(errno, "adding entropy");
  if (::ioctl(random.get(), RNDRESEEDCRNG) < 0)
    return fail_errno(errno, "reseeding the random number generator");
  return {};
}

}  // namespace

Result<void> bring_loopback_up() {
  Fd socket = TRY(network_socket());
  return set_up(socket, "lo", true);
}

Result<void> bring_network_up(bool ipv6) {
  namespace numbers = protocol::guest_network;
  if (::if_nametoindex(kDevice) == 0) return {};
  Fd socket = TRY(network_socket());
  ifreq request = request_for(kDevice);
  request.ifr_addr = address_of(numbers::kGuest);
  if (::ioctl(socket.get(), SIOCSIFADDR, &request) < 0)
    return fail_errno(errno, "setting the address of the network device");
  request.ifr_netmask = address_of(numbers::kNetmask);
  if (::ioctl(socket.get(), SIOCSIFNETMASK, &request) < 0)
    return fail_errno(errno, "setting the network mask");
  TRY(set_up(socket, kDevice, true));
  rtentry route{};
  route.rt_dst = address_of(0);
  route.rt_genmask = address_of(0);
  route.rt_gateway = address_of(numbers::kGateway);
  route.rt_flags = RTF_UP | RTF_GATEWAY;
  if (::ioctl(socket.get(), SIOCADDRT, &route) < 0)
    return fail_errno(errno, "setting the default route");
  return ipv6 ? add_ipv6(kDevice) : Result<void>();
}

Result<void> set_hardware_address(std::string_view mac, bool ipv6) {
  if (::if_nametoindex(kDevice) == 0) return {};
  Fd socket = TRY(network_socket());
  ifreq request = request_for(kDevice);
  request.ifr_hwaddr.sa_family = ARPHRD_ETHER;
  std::memcpy(request.ifr_hwaddr.sa_data, mac.data(), mac.size());
  if (::ioctl(socket.get(), SIOCSIFHWADDR, &request) == 0) return {};
  if (errno != EBUSY) return fail_errno(errno, "setting the address of the device eth0");
  // Going down, the device loses its routes, and its addresses of IPv6.
  TRY(set_up(socket, kDevice, false));
  if (::ioctl(socket.get(), SIOCSIFHWADDR, &request) < 0)
    return fail_errno(errno, "setting the address of the device eth0, which is down");
  return bring_network_up(ipv6);
}

void apply_settings() {
  for (const Setting& setting : kSettings) {
    auto written = write_setting(setting.path, setting.value);
    if (!written && written.error().number != ENOENT)
      log_warning("{}: {}", setting.path, written.error().message);
  }
  rlimit files{.rlim_cur = 65536, .rlim_max = 1048576};
  if (::setrlimit(RLIMIT_NOFILE, &files) < 0)
    log_warning("setting the limit of open files: errno {}", errno);
}

Result<void> protect_from_memory_killer() {
  return write_setting("/proc/self/oom_score_adj", "-1000");
}

Result<Fd> start_clock_interrupts() {
  Fd clock(::open("/dev/rtc0", O_RDONLY | O_CLOEXEC));
  if (!clock && (errno == ENOENT || errno == ENODEV || errno == ENXIO)) return Fd();
  if (!clock) return fail_errno(errno, "opening /dev/rtc0");
  if (::ioctl(clock.get(), RTC_UIE_ON, 0) < 0) return fail_errno(errno, "RTC_UIE_ON");
  return clock;
}

Applied apply_hello(const protocol::agent::Hello& hello, bool ipv6, bool owns_files) {
  Applied applied;
  if (!hello.entropy.empty()) {
    auto added = add_entropy(hello.entropy);
    if (!added) die(added.error());
    applied.reseeded = true;
  }
  if (hello.realtime_ns != 0) {
    auto set = set_clock(hello.realtime_ns);
    if (!set) log_warning("{}", set.error().text());
  }
  if (!hello.hostname.empty() && ::sethostname(hello.hostname.data(), hello.hostname.size()) < 0)
    log_warning("setting the host name {}: errno {}", hello.hostname, errno);
  if (!hello.hostname.empty() && owns_files)
    if (Result<void> renamed = rename_host("", hello.hostname); !renamed)
      log_warning("{}", renamed.error().text());
  auto note = [&](const Result<void>& done) {
    if (done) return;
    if (!applied.problem.empty()) applied.problem += "; ";
    applied.problem += done.error().text();
  };
  if (!hello.machine_id.empty()) {
    note(renew_machine_id("", hello.machine_id));
    note(remove_host_keys(""));
  }
  if (!hello.boot_id.empty()) note(renew_boot_id(hello.boot_id));
  if (!hello.mac.empty()) note(set_hardware_address(hello.mac, ipv6));
  return applied;
}

}  // namespace hutch::agent
