#include "net/names.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstring>

using namespace hutch;
using namespace hutch::net;
using policy::Policy;

namespace {

Policy make(std::vector<std::string> patterns) {
  return *Policy::parse(patterns);
}

// A question for the address of a name of two labels.
std::vector<std::byte> question(const std::string& first, const std::string& second) {
  std::string text = {1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0};
  for (const std::string& label : {first, second}) text += static_cast<char>(label.size()) + label;
  text += std::string("\0\0\1\0\1", 5);
  std::vector<std::byte> bytes(text.size());
  std::transform(text.begin(), text.end(), bytes.begin(),
                 [](char c) { return static_cast<std::byte>(c); });
  return bytes;
}

}  // namespace

TEST_CASE("an address stands for its name while the policy knows it") {
  Names names(make({"allowed.test:443", "1.2.3.4"}));
  CHECK(names.answer(question("allowed", "test"), 512).has_value());
  CHECK_FALSE(names.answer(question("allowed", "test"), 20));
  IpAddress address = IpAddress::v4(198, 18, 0, 2);
  CHECK(names.find(address) == "allowed.test");
  CHECK_FALSE(names.find(IpAddress::v4(198, 18, 0, 3)));
  CHECK(names.allows(FlowTarget{"allowed.test", address, 443}));
  CHECK_FALSE(names.allows(FlowTarget{"allowed.test", address, 80}));
  names.set_policy(make({"other.test"}));
  CHECK_FALSE(names.find(address));
  CHECK_FALSE(names.allows(FlowTarget{"allowed.test", address, 443}));
  CHECK_FALSE(names.allows(FlowTarget{"", IpAddress::v4(1, 2, 3, 4), 80}));
  // Asked for again, it is the same.
  names.set_policy(make({"allowed.test"}));
  CHECK(names.find(address) == "allowed.test");
  CHECK(names.dns_counters().answered == 2);
}

TEST_CASE("an address that could stand for a name is never a literal") {
  Names names(Policy::all());
  for (const char* text : {"198.18.0.0", "198.18.0.1", "198.19.255.255"}) {
    IpAddress address = *IpAddress::parse(text);
    CHECK_FALSE(names.allows(address, 443));
    CHECK_FALSE(names.allows(FlowTarget{"", address, 443}));
  }
  CHECK(names.allows(*IpAddress::parse("198.17.255.255"), 443));
  CHECK(names.allows(*IpAddress::parse("198.20.0.0"), 443));
  CHECK(names.allows(*IpAddress::parse("8.8.8.8"), 53));
  names.set_policy(make({"198.18.0.1"}));
  CHECK_FALSE(names.allows(*IpAddress::parse("198.18.0.1"), 443));
}

TEST_CASE("with version 6, an address of it stands for the same name") {
  Names names(make({"a.test", "[2001:db8::1]:443"}), {}, true);
  std::vector<std::byte> ask = question("a", "test");
  ask[ask.size() - 3] = std::byte{28};
  std::optional<std::vector<std::byte>> answer = names.answer(ask, 512);
  REQUIRE(answer);
  std::array<uint8_t, 16> bytes;
  REQUIRE(answer->size() == ask.size() + 12 + 16);
  std::memcpy(bytes.data(), answer->data() + answer->size() - 16, 16);
  IpAddress address = IpAddress::v6(bytes);
  CHECK(address == *IpAddress::parse("fd48:7574:6368:1::c612:2"));
  CHECK(names.find(address) == "a.test");
  CHECK(names.find(*IpAddress::parse("198.18.0.2")) == "a.test");
  CHECK_FALSE(names.find(*IpAddress::parse("fd48:7574:6368:1::c612:3")));
  CHECK_FALSE(names.find(*IpAddress::parse("fd48:7574:6368:2::c612:2")));
  // What the gateway's networks hold stands for nothing else; others are the policy's.
  CHECK_FALSE(names.allows(address, 443));
  CHECK(names.allows(*IpAddress::parse("2001:db8::1"), 443));
  CHECK_FALSE(names.allows(*IpAddress::parse("2001:db8::1"), 80));
  Names all(Policy::all(), {}, true);
  CHECK_FALSE(all.allows(*IpAddress::parse("fd48:7574:6368::2"), 443));
  CHECK_FALSE(all.allows(*IpAddress::parse("fd48:7574:6368:1::c612:9"), 443));
  CHECK(all.allows(*IpAddress::parse("2001:db8::1"), 443));
  // Off, there is none.
  Names off(make({"a.test"}));
  answer = off.answer(ask, 512);
  REQUIRE(answer);
  CHECK(answer->size() == ask.size());
  CHECK((std::to_integer<int>((*answer)[3]) & 0x0f) == 0);
}

TEST_CASE("what is refused is told of") {
  std::vector<FlowTarget> denied;
  Names names(make({"a.test", "1.2.3.4:80"}),
              [&](const FlowTarget& target) { denied.push_back(target); });
  CHECK(names.answer(question("a", "test"), 512));
  CHECK(names.allows(*IpAddress::parse("1.2.3.4"), 80));
  CHECK(denied.empty());
  CHECK(names.answer(question("B", "test"), 512));
  REQUIRE(denied.size() == 1);
  CHECK(denied[0].name == "b.test");
  CHECK(denied[0].port == 0);
  // What no host can be called has no place in a log.
  CHECK(names.answer(question("b\n", "test"), 512));
  CHECK(denied.size() == 1);
  CHECK_FALSE(names.allows(*IpAddress::parse("1.2.3.4"), 81));
  CHECK_FALSE(names.allows(*IpAddress::parse("198.18.0.9"), 80));
  REQUIRE(denied.size() == 3);
  CHECK(denied[1].address == *IpAddress::parse("1.2.3.4"));
  CHECK(denied[1].port == 81);
  CHECK(denied[2].address == *IpAddress::parse("198.18.0.9"));
}
