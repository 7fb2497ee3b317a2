#include "policy/policy.h"

#include <doctest/doctest.h>

#include "policy/address_floor.h"
#include "policy/host_name.h"

using namespace hutch;
using namespace hutch::policy;

namespace {

Policy make(std::vector<std::string> patterns) {
  Result<Policy> policy = Policy::parse(patterns);
  REQUIRE_MESSAGE(policy.has_value(), policy.error().message);
  return *policy;
}

std::string why_not(const std::string& pattern) {
  Result<Policy> policy = Policy::parse(std::vector{pattern});
  return policy ? "" : policy.error().message;
}

IpAddress address(const char* text) {
  return *IpAddress::parse(text);
}

}  // namespace

TEST_CASE("an address has one strict form") {
  for (const char* text : {"0.0.0.0", "127.0.0.1", "255.255.255.255", "::1", "2001:db8::1",
                           "fe80::1", "::ffff:1.2.3.4", "1:2:3:4:5:6:7:8"}) {
    CAPTURE(text);
    REQUIRE(IpAddress::parse(text));
    CHECK(IpAddress::parse(text)->text() == text);
  }
  CHECK(address("2001:DB8:0:0:0:0:0:1").text() == "2001:db8::1");
  for (const char* text :
       {"",           "1",          "1.2.3",   "1.2.3.4.5",     "01.2.3.4", "1.2.3.256",
        "0x7f.0.0.1", "0177.0.0.1", "127.1",   "2130706433",    "1.2.3.4 ", " 1.2.3.4",
        "1..3.4",     "1.2.3.",     ".1.2.3",  "1.2.3.4.",      "+1.2.3.4", "::1%eth0",
        "[::1]",      ":::",        "1::2::3", "1:2:3:4:5:6:7", "g::",      "::ffff:1.2.3.256"}) {
    CAPTURE(text);
    CHECK_FALSE(IpAddress::parse(text));
  }
  CHECK_FALSE(IpAddress::parse(std::string_view("::1\0", 4)));
  CHECK_FALSE(IpAddress::parse(std::string(100, ':')));
  CHECK(address("1.2.3.4").v4_value() == 0x01020304);
  CHECK(IpAddress::v4(0x7f000001).text() == "127.0.0.1");
  CHECK(address("1.2.3.4") != address("::ffff:1.2.3.4"));
}

TEST_CASE("the floor holds both edges of every range, and lets their neighbours pass") {
  struct Range {
    const char* before;
    const char* first;
    const char* last;
    const char* after;
  };
  // Empty: there is no neighbour of the open Internet.
  for (const Range& range :
       {Range{"", "0.0.0.0", "0.255.255.255", "1.0.0.0"},
        Range{"9.255.255.255", "10.0.0.0", "10.255.255.255", "11.0.0.0"},
        Range{"100.63.255.255", "100.64.0.0", "100.127.255.255", "100.128.0.0"},
        Range{"126.255.255.255", "127.0.0.0", "127.255.255.255", "128.0.0.0"},
        Range{"169.253.255.255", "169.254.0.0", "169.254.255.255", "169.255.0.0"},
        Range{"172.15.255.255", "172.16.0.0", "172.31.255.255", "172.32.0.0"},
        Range{"191.255.255.255", "192.0.0.0", "192.0.0.255", "192.0.1.0"},
        Range{"192.0.1.255", "192.0.2.0", "192.0.2.255", "192.0.3.0"},
        Range{"192.88.98.255", "192.88.99.0", "192.88.99.255", "192.88.100.0"},
        Range{"192.167.255.255", "192.168.0.0", "192.168.255.255", "192.169.0.0"},
        Range{"198.17.255.255", "198.18.0.0", "198.19.255.255", "198.20.0.0"},
        Range{"198.51.99.255", "198.51.100.0", "198.51.100.255", "198.51.101.0"},
        Range{"203.0.112.255", "203.0.113.0", "203.0.113.255", "203.0.114.0"},
        Range{"223.255.255.255", "224.0.0.0", "255.255.255.255", ""},
        Range{"", "::", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", ""},
        Range{"", "2001::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", "2001:200::"},
        Range{"2001:db7:ffff::", "2001:db8::", "2001:db8:ffff::1", "2001:db9::"},
        Range{"3ffe:ffff::", "3fff::", "3fff:fff:ffff::1", "3fff:1000::"},
        Range{"3fff:ffff:ffff::", "4000::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", ""}}) {
    CAPTURE(range.first);
    CHECK(floor_reason(address(range.first)) != nullptr);
    CHECK(floor_reason(address(range.last)) != nullptr);
    for (const char* neighbour : {range.before, range.after}) {
      CAPTURE(neighbour);
      if (*neighbour != '\0') CHECK(floor_reason(address(neighbour)) == nullptr);
    }
  }
}

TEST_CASE("an IPv4 address is kept out inside an IPv6 one, too") {
  for (const char* text :
       {"::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1",
        "64:ff9b:1::a00:1", "2002:7f00:1::", "2002:a9fe:a9fe::1", "2002:c0a8:101::1",
        "2001:0:4136:e378:8000:63bf:80ff:fffe", "fd00:ec2::254", "fe80::a9fe:a9fe",
        "::ffff:0:127.0.0.1"}) {
    CAPTURE(text);
    CHECK(floor_reason(address(text)) != nullptr);
  }
  CHECK(std::string(floor_reason(address("::ffff:127.0.0.1"))) == "loopback");
  CHECK(std::string(floor_reason(address("2002:7f00:1::"))) == "loopback");
  CHECK(std::string(floor_reason(address("::1"))) == "loopback");
  CHECK(std::string(floor_reason(address("169.254.169.254"))) == "link-local");
  CHECK(floor_reason(address("2002:808:808::1")) == nullptr);
  CHECK(floor_reason(address("2606:4700:4700::1111")) == nullptr);
  CHECK(floor_reason(address("8.8.8.8")) == nullptr);
}

TEST_CASE("a host name has one form") {
  CHECK(canonical_host_name("Example.COM") == "example.com");
  CHECK(canonical_host_name("example.com.") == "example.com");
  CHECK(canonical_host_name("a_b.x-y.xn--p1ai") == "a_b.x-y.xn--p1ai");
  CHECK(canonical_host_name("localhost") == "localhost");
  CHECK(canonical_host_name(std::string(63, 'a') + ".de").has_value());
  std::string longest;
  for (int i = 0; i < 126; i++) longest += "a.";
  CHECK(canonical_host_name(longest + "b").has_value());
  for (const std::string& text : {std::string(""),
                                  std::string("."),
                                  std::string(".com"),
                                  std::string("a..b"),
                                  std::string("a.b.."),
                                  std::string("-a.de"),
                                  std::string("a-.de"),
                                  std::string("a b.de"),
                                  std::string("a/b"),
                                  std::string("a:80"),
                                  std::string("*.de"),
                                  std::string("127.1"),
                                  std::string("1.2.3.4"),
                                  std::string("2130706433"),
                                  std::string("0x7f.1"),
                                  std::string("0x7f000001"),
                                  std::string("a.0x1"),
                                  std::string("a.1"),
                                  std::string("[::1]"),
                                  std::string("ex\0ample.com", 12),
                                  std::string("example.com\0", 12),
                                  std::string("exämple.com"),
                                  std::string("example\xef\xbc\x8e"
                                              "com"),
                                  std::string("a@b.de"),
                                  std::string("a%00.de"),
                                  std::string("\r\na.de"),
                                  std::string(64, 'a') + ".de",
                                  longest + "bc"}) {
    CAPTURE(text);
    CHECK_FALSE(canonical_host_name(text));
  }
}

TEST_CASE("a rule matches what it says, and no more") {
  Policy policy = make({"allowed.test:443", "*.wild.test", "93.184.216.34", "[2606:4700::1]:853"});
  CHECK(policy.allows("allowed.test", 443)->rule == "allowed.test:443");
  CHECK(policy.allows("allowed.test", 443)->names_port);
  for (int port : {80, 22, 8443, 0, 65535})
    CHECK_FALSE(policy.allows("allowed.test", static_cast<uint16_t>(port)));
  for (const char* name : {"a.wild.test", "a.b.wild.test", "_x.wild.test"}) {
    CAPTURE(name);
    CHECK(policy.allows(name, 1)->rule == "*.wild.test");
    CHECK_FALSE(policy.allows(name, 1)->names_port);
    CHECK(policy.knows(name));
  }
  for (const char* name : {"wild.test", "xwild.test", "wild.test.evil.test", ".wild.test", "test",
                           "", "sub.allowed.test", "allowed.test.evil", "93.184.216.34"}) {
    CAPTURE(name);
    CHECK_FALSE(policy.allows(name, 443));
    CHECK_FALSE(policy.knows(name));
  }
  CHECK(policy.knows("allowed.test"));
  CHECK(policy.allows(address("93.184.216.34"), 22)->rule == "93.184.216.34");
  CHECK(policy.allows(address("2606:4700::1"), 853));
  CHECK_FALSE(policy.allows(address("2606:4700::1"), 443));
  CHECK_FALSE(policy.allows(address("93.184.216.35"), 22));
  CHECK_FALSE(policy.allows(address("::ffff:93.184.216.34"), 22));
  CHECK_FALSE(policy.allows(address("93.184.216.34"), 0));
}

TEST_CASE("a rule with the port goes before one without") {
  Policy policy = make({"git.test", "git.test:22", "*.test.org", "a.test.org:25"});
  CHECK(policy.allows("git.test", 22)->names_port);
  CHECK_FALSE(policy.allows("git.test", 443)->names_port);
  CHECK(policy.allows("a.test.org", 25)->rule == "a.test.org:25");
}

TEST_CASE("an empty policy allows nothing; all allows all but this machine") {
  CHECK_FALSE(Policy().knows("example.com"));
  CHECK_FALSE(make({}).allows("example.com", 443));
  CHECK_FALSE(make({}).allows(address("8.8.8.8"), 53));
  Policy all = Policy::all();
  CHECK(all.knows("example.com"));
  CHECK(all.allows("example.com", 1)->rule == "*");
  CHECK_FALSE(all.allows("example.com", 1)->names_port);
  CHECK(all.allows(address("8.8.8.8"), 443));
  for (const char* name : {"localhost", "a.localhost"}) {
    CHECK_FALSE(all.knows(name));
    CHECK_FALSE(all.allows(name, 443));
  }
}

TEST_CASE("a bad pattern is refused with its reason") {
  using Case = std::pair<std::string, std::string>;
  for (const Case& bad : {Case{"", "is empty"},
                          {"*", "every host"},
                          {"*:443", "every host"},
                          {"*.test", "top-level domain"},
                          {"*.", "neither a host name"},
                          {"a.*.b", "elsewhere"},
                          {"*foo.com", "elsewhere"},
                          {"*.*.com", "elsewhere"},
                          {"exa*mple.com", "elsewhere"},
                          {".example.com", "neither a host name"},
                          {"example.com.", "neither a host name"},
                          {"https://example.com", "port"},
                          {"example.com/path", "not a URL"},
                          {"10.0.0.0/8", "not a URL"},
                          {"example.com:", "port"},
                          {"example.com:0", "port"},
                          {"example.com:080", "port"},
                          {"example.com:65536", "port"},
                          {"example.com:+80", "port"},
                          {"example.com: 80", "port"},
                          {"example.com:80:80", "more than one colon"},
                          {"2001:db8::1", "brackets"},
                          {"[2001:db8::1", "lacks"},
                          {"[2001:db8::1]443", "behind"},
                          {"[2001:db8::1]:", "port"},
                          {"[1.2.3.4]", "no IPv6"},
                          {"[]", "no IPv6"},
                          {"[::1%lo]", "no IPv6"},
                          {"2130706433", "neither"},
                          {"0x7f.1", "neither"},
                          {"127.1", "neither"},
                          {"localhost", "this machine"},
                          {"*.localhost", "top-level"},
                          {"a.localhost:80", "this machine"},
                          {std::string("a\0.com", 6), "neither"},
                          {"exämple.com", "neither"},
                          {"example.com ", "neither"},
                          {std::string(600, 'a'), "too long"}}) {
    std::string why = why_not(bad.first);
    CAPTURE(bad.first);
    CHECK_MESSAGE(why.find(bad.second) != std::string::npos, why);
  }
  // What is said of it holds nothing that a terminal would act on.
  CHECK(why_not("\x1b[2J").find('\x1b') == std::string::npos);
  CHECK_FALSE(Policy::parse(std::vector<std::string>(kMaxRules + 1, "a.test")));
  CHECK_FALSE(Policy::parse(std::vector<std::string>(kMaxRules, std::string(60, 'a') + ".test")));
}

TEST_CASE("a policy is the same again from its own patterns") {
  Policy policy =
      make({"B.test", "a.test:443", "*.W.test:1", "[2001:DB8::1]", "1.2.3.4:5", "b.TEST"});
  CHECK(policy.patterns() == std::vector<std::string>{"*.w.test:1", "1.2.3.4:5", "[2001:db8::1]",
                                                      "a.test:443", "b.test"});
  CHECK(make(policy.patterns()) == policy);
}
