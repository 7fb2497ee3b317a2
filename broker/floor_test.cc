// The floor, where it depends on the host: its addresses change while a sandbox runs.
#include "broker/floor.h"

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cstdio>
#include <cstring>
#include <thread>

namespace hutch::broker {
namespace {

const IpAddress kFirst = IpAddress::parse("93.184.216.34").value();
const IpAddress kSecond = IpAddress::parse("93.184.216.35").value();

// In place of the address that the loopback interface of the thread's network namespace has.
void set_address(const IpAddress& address) {
  Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request{};
  std::memcpy(request.ifr_name, "lo", 3);
  sockaddr_in value{};
  value.sin_family = AF_INET;
  value.sin_addr.s_addr = htonl(address.v4_value());
  std::memcpy(&request.ifr_addr, &value, sizeof value);
  REQUIRE(::ioctl(socket.get(), SIOCSIFADDR, &request) == 0);
}

TEST_CASE("an address of this host is refused from when it has it until it has it no more") {
  // A thread may leave its process's namespace.
  std::thread([] {
    if (::unshare(CLONE_NEWNET) < 0) {
      std::printf("SKIPPED: the host's addresses: no network namespace can be made\n");
      return;
    }
    const Floor floor = Floor::create({}).value();
    CHECK(floor.reason(kFirst) == "");
    CHECK(floor.reason(kFirst) == "");
    set_address(kFirst);
    CHECK(floor.reason(kFirst) == "this host");
    CHECK(floor.reason(kFirst) == "this host");
    CHECK(floor.reason(kSecond) == "");
    set_address(kSecond);
    CHECK(floor.reason(kFirst) == "");
    CHECK(floor.reason(kSecond) == "this host");
    // More changes than a socket can hold.
    for (int i = 0; i < 2000; i++) set_address(i % 2 == 0 ? kSecond : kFirst);
    CHECK(floor.reason(kFirst) == "this host");
    CHECK(floor.reason(kSecond) == "");
  }).join();
}

}  // namespace
}  // namespace hutch::broker
