#include "protocol/broker.h"

#include <doctest/doctest.h>
#include <unistd.h>

using namespace hutch;
using namespace hutch::protocol::broker;

namespace {

using Bytes = std::vector<std::byte>;

// What was encoded can be read, and neither less nor more of it.
template <typename T>
T round_trip(const T& message) {
  Bytes bytes = encode(message);
  Result<T> decoded = decode<T>(bytes);
  REQUIRE(decoded.has_value());
  CHECK(encode(*decoded) == bytes);
  for (size_t size = 0; size < bytes.size(); size++) {
    Bytes cut(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
    if constexpr (std::is_same_v<T, First>) {
      if (size > 5) continue;
    }
    CHECK_FALSE(decode<T>(cut));
  }
  if constexpr (!std::is_same_v<T, First>) {
    Bytes longer = bytes;
    longer.push_back(std::byte{0});
    CHECK_FALSE(decode<T>(longer));
  }
  Bytes other = bytes;
  other[0] = std::byte{99};
  CHECK_FALSE(decode<T>(other));
  CHECK_FALSE(type_of(other));
  return *decoded;
}

}  // namespace

TEST_CASE("the broker's messages are read as they were written") {
  Open open = round_trip(Open{7, "allowed.test", "198.18.0.1", 443});
  CHECK(open.flow == 7);
  CHECK(open.name == "allowed.test");
  CHECK(open.address == "198.18.0.1");
  CHECK(open.port == 443);
  Bytes bytes(100, std::byte{1});
  Bytes packet = encode(First{8, bytes});
  First first = decode<First>(packet).value();
  CHECK(first.flow == 8);
  CHECK(std::equal(bytes.begin(), bytes.end(), first.bytes.begin(), first.bytes.end()));
  Close close = round_trip(Close{9, 1, 1ull << 40});
  CHECK(close.sent == 1);
  CHECK(close.received == 1ull << 40);
  CHECK(round_trip(Denied{"evil.test", "", 0}).name == "evil.test");
  Denied denied = round_trip(Denied{"", "1.2.3.4", 80});
  CHECK(denied.address == "1.2.3.4");
  CHECK(denied.port == 80);
  CHECK(round_trip(Connected{~0u}).flow == ~0u);
  CHECK(round_trip(Ready{1, 65535}).consumed == 65535);
  CHECK(round_trip(Refused{1, Reason::kFloor}).reason == Reason::kFloor);
}

TEST_CASE("what a launcher says is read as it was written") {
  Policy policy = round_trip(Policy{true, {"a.test", "*.b.test:443"}});
  CHECK(policy.allows_all);
  CHECK(policy.patterns == std::vector<std::string>{"a.test", "*.b.test:443"});
  Configure configure;
  configure.policy.patterns = {"a.test"};
  configure.opened = {"10.0.0.0/8"};
  configure.ipv6 = true;
  configure.servers = {"127.0.0.1:53"};
  configure.log_limit = uint64_t{1} << 33;
  for (bool has_log : {false, true}) {
    std::vector<Fd> fds;
    fds.push_back(Fd(::dup(0)));
    if (has_log) {
      configure.log = Fd(::dup(0));
      fds.push_back(Fd(::dup(0)));
    }
    Bytes bytes = encode(configure);
    for (size_t size = 0; size < bytes.size(); size++)
      CHECK_FALSE(decode_configure(std::span(bytes).first(size), {}));
    CHECK_FALSE(decode_configure(bytes, {}));
    Configure read = decode_configure(bytes, std::move(fds)).value();
    CHECK(read.policy.patterns == configure.policy.patterns);
    CHECK_FALSE(read.policy.allows_all);
    CHECK(read.opened == configure.opened);
    CHECK(read.ipv6);
    CHECK(read.servers == configure.servers);
    CHECK(read.vmm.is_open());
    CHECK(read.log.is_open() == has_log);
    CHECK(read.log_limit == uint64_t{1} << 33);
  }
}

TEST_CASE("the broker's messages hold no values that there are not") {
  CHECK_FALSE(decode<Open>(encode(Open{1, "a", "", 0})));
  CHECK_FALSE(decode<Open>(encode(Open{1, std::string(254, 'a'), "", 1})));
  CHECK_FALSE(decode<Open>(encode(Open{1, "", std::string(46, '1'), 1})));
  CHECK_FALSE(decode<Denied>(encode(Denied{"", "", 0})));
  CHECK_FALSE(decode<Denied>(encode(Denied{"a", "1.2.3.4", 0})));
  CHECK_FALSE(decode<Denied>(encode(Denied{std::string(254, 'a'), "", 0})));
  CHECK_FALSE(decode<Denied>(encode(Denied{"", std::string(46, '1'), 0})));
  Bytes end = encode(First{1, {}});
  CHECK(decode<First>(end)->bytes.empty());
  Bytes many(kMaxFirst + 1);
  CHECK_FALSE(decode<First>(encode(First{1, many})));
  CHECK_FALSE(decode<Ready>(encode(Ready{1, 65536})));
  for (uint8_t reason : {uint8_t{0}, uint8_t{8}, uint8_t{255}})
    CHECK_FALSE(decode<Refused>(encode(Refused{1, static_cast<Reason>(reason)})));
  CHECK_FALSE(type_of({}));
  CHECK(encode(First{1, std::span(many).first(kMaxFirst)}).size() <= kMaxMessage);
  for (int reason = 1; reason <= 7; reason++)
    CHECK(std::string(name(static_cast<Reason>(reason))) != "unknown");
}
